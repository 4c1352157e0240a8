//! The errors of requests.

/// `Result` with this crate's error.
pub type Result<T, E = ServeError> = std::result::Result<T, E>;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The request is wrong: which field, and why.
    #[error("{message}")]
    Invalid {
        /// The fault, and the way out.
        message: String,
        /// The field.
        param: Option<String>,
        /// A name for programs, such as `context_length_exceeded`.
        code: Option<&'static str>,
    },
    /// Neither the base nor an adapter has that name.
    #[error("the model `{0}` does not exist; GET /v1/models lists those that do")]
    UnknownModel(String),
    /// An adapter that cannot be loaded.
    #[error("the adapter `{name}` cannot be loaded: {message}")]
    Adapter {
        /// The adapter.
        name: String,
        /// The fault of its files.
        message: String,
    },
    /// The adapter is another generation than the caller expects.
    #[error("the adapter `{name}` is at generation {found}, not {expected}")]
    Generation {
        /// The adapter.
        name: String,
        /// Its generation.
        found: u64,
        /// The generation that the caller expects.
        expected: u64,
    },
    /// More requests wait than may.
    #[error("{waiting} requests are waiting, which is as many as may: try again later")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// The memory for adapters is taken by those that are in use or pinned.
    #[error("no memory for the adapter `{name}`: {reason}")]
    NoRoom {
        /// The adapter.
        name: String,
        /// The reason, in words.
        reason: String,
        /// Whether it may fit later.
        temporary: bool,
    },
    /// The server is about to end.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The request was given up by its sender.
    #[error("the request was cancelled")]
    Cancelled,
    /// The model has no answer, for example because its numbers are not finite.
    #[error("{0}")]
    Failed(String),
}

impl ServeError {
    /// A wrong field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), param: Some(param.into()), code: None }
    }
}
