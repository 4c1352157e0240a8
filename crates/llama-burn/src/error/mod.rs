//! The one error type of this crate.

mod causes;

use std::path::{Path, PathBuf};

pub use causes::{HubCause, PromptError, SamplingError, TemplateError};

/// `Result` with this crate's error.
pub type Result<T, E = LlamaError> = std::result::Result<T, E>;

/// Every error between a Hugging Face model directory and generated text.
///
/// A message names the file or the key it is about and, where several things are wrong at once, lists them all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{} is not valid JSON of the expected shape: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A configuration that is missing something, contradicts itself or asks for what is not supported.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Config {
        /// The `config.json`.
        path: PathBuf,
        /// Every problem found, each with its key.
        problems: Vec<String>,
    },
    /// A model of another family.
    #[error("{}: the architecture is {found}; supported: {supported}", path.display())]
    UnsupportedArchitecture {
        /// The `config.json`.
        path: PathBuf,
        /// The architecture that the file names.
        found: String,
        /// The architectures that this crate can load.
        supported: String,
    },
    /// Weights of a dtype that the device cannot hold or compute with.
    #[error("{device} does not support {dtype}; load the model as f32, or use another device")]
    UnsupportedDtype {
        /// The device, as Burn shows it.
        device: String,
        /// The dtype, such as `bf16`.
        dtype: String,
    },
    /// Weights that cannot be used: an index that names no files, or another format.
    #[error("{}: not usable as weights: {message}", path.display())]
    Weights {
        /// The weight file or its index.
        path: PathBuf,
        /// The fault.
        message: String,
    },
    /// A weight that cannot be quantised.
    #[error("{tensor} cannot be quantised: {error}")]
    Quantization {
        /// Its name.
        tensor: String,
        /// The fault.
        error: fused_burn::QuantizeError,
    },
    /// A GGUF file that is broken, or of a model that is not supported.
    #[error("{}: not usable as GGUF: {message}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The fault.
        message: String,
    },
    /// The stored tensors are not those that the configuration describes.
    #[error("{}: the tensors do not fit config.json{}", path.display(), list_tensors(missing, unexpected, misshapen))]
    Tensors {
        /// The weight file or the model directory.
        path: PathBuf,
        /// Names the model needs and the files lack.
        missing: Vec<String>,
        /// Names the files hold and the model has no place for.
        unexpected: Vec<String>,
        /// `name: shape found, shape expected` of tensors that differ in shape.
        misshapen: Vec<String>,
    },
    /// Files that a model directory should have and does not.
    #[error("the model is incomplete; missing:\n  {}\nfetch it again", files.join("\n  "))]
    MissingFiles {
        /// Their paths.
        files: Vec<String>,
    },
    /// A prompt that cannot be continued.
    #[error("prompt {row}: {cause}")]
    Prompt {
        /// Which of the prompts, from 0.
        row: usize,
        /// The fault.
        cause: PromptError,
    },
    /// A mixed batch of adapters with another number of prompts.
    #[error("a mixed batch of {names} adapter names and {prompts} prompts: give one name for each prompt")]
    MixedBatch {
        /// How many adapters are named.
        names: usize,
        /// How many prompts there are.
        prompts: usize,
    },
    /// An error of the adapters or of a tensor file.
    #[error(transparent)]
    Peft(#[from] peft_burn::PeftError),
    /// A tokenizer that cannot be loaded, or text it cannot handle.
    #[error("{origin}: {message}")]
    Tokenizer {
        /// The file, or what stands for it.
        origin: String,
        /// The fault.
        message: String,
    },
    /// A tokenizer of a class that makes something else of its files than `tokenizer.json` says, and is not supported.
    #[error(
        "{}: the tokenizer's class is {class}, which Transformers has a pipeline of its own for; supported are {}, and every \
         name for which Transformers takes tokenizer.json as it is. Where that file holds the whole tokenizer, set \
         tokenizer_class to PreTrainedTokenizerFast",
        path.display(), supported.join(", ")
    )]
    TokenizerClass {
        /// The file that names it.
        path: PathBuf,
        /// The class.
        class: String,
        /// Those that are supported.
        supported: Vec<&'static str>,
    },
    /// A chat template that is missing, malformed or refuses the conversation.
    #[error("chat template: {0}")]
    Template(#[from] TemplateError),
    /// Sampling options that have no meaning, or logits that leave no choice.
    #[error("sampling: {0}")]
    Sampling(#[from] SamplingError),
    /// A folder that is to be written and holds something already.
    #[error("{} exists already and is not empty; give another folder, or remove this one first", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// An adapter that a plain model directory cannot hold.
    #[error(
        "the adapter gives these layers a bias, which config.json has no place for:\n  {}\n\
         keep the adapter apart from the model, or train it with lora_bias = false",
        paths.join("\n  ")
    )]
    NoPlaceForBias {
        /// The layers.
        paths: Vec<String>,
    },
    /// A data set that is neither here nor could be had from the hub.
    #[error("data set {name:?}: {message}")]
    HubDataset {
        /// The data set as it was asked for.
        name: String,
        /// The kind of the fault.
        cause: HubCause,
        /// The fault and the way out.
        message: String,
    },
    /// A model that is neither a directory nor could be had from the hub.
    #[error("model {model:?}: {message}")]
    Hub {
        /// The model as it was asked for.
        model: String,
        /// The kind of the fault.
        cause: HubCause,
        /// The fault and the way out.
        message: String,
    },
}

impl LlamaError {
    /// For `map_err` on operations that touch `path`.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| LlamaError::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// For `map_err` on parsing the contents of `path`.
    pub(crate) fn json(path: impl AsRef<Path>) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| LlamaError::Json { path: path.as_ref().to_path_buf(), source }
    }
}

fn list_tensors(missing: &[String], unexpected: &[String], misshapen: &[String]) -> String {
    [("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("\n  {what} ({}):\n    {}", names.len(), names.join("\n    ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_that_does_not_fit_is_listed() {
        let error = LlamaError::Tensors {
            path: "m/model.safetensors".into(),
            missing: vec!["a".into(), "b".into()],
            unexpected: vec![],
            misshapen: vec!["c: [1, 2], expected [2, 1]".into()],
        };
        let expected = "m/model.safetensors: the tensors do not fit config.json\n  missing (2):\n    a\n    b\n  \
                        of another shape (1):\n    c: [1, 2], expected [2, 1]";
        assert_eq!(error.to_string(), expected);
    }
}
