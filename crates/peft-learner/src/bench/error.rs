//! Errors of a measurement.

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// An unknown name.
    #[error("there is no bench method `{name}` (known: {known})")]
    Method {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// No step to time, or no token to train on.
    #[error("{0}")]
    Size(&'static str),
    /// The model.
    #[error(transparent)]
    Model(#[from] llama_burn::LlamaError),
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] peft_burn::PeftError),
}
