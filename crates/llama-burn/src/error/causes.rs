//! The causes in [`LlamaError`](super::LlamaError) that a program may want to act on.

use std::path::PathBuf;

/// Why a prompt cannot be continued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// There is nothing to continue.
    #[error("it is empty: give at least one token")]
    Empty,
    /// A token that the model does not have.
    #[error("token {id} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// Tokens of the vocabulary.
        vocabulary: usize,
    },
}

/// Why a conversation has no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The model has no chat template.
    #[error(
        "{}the model has no chat template; use a chat model, put a chat_template.jinja beside its tokenizer, or give plain prompts",
        dir.as_ref().map(|dir| format!("{}: ", dir.display())).unwrap_or_default()
    )]
    Missing {
        /// The model's directory, where it is known.
        dir: Option<PathBuf>,
    },
    /// The model has templates, but none for this conversation.
    #[error("no chat_template is named \"default\"; there are: {}", names.join(", "))]
    NoDefault {
        /// The names that exist.
        names: Vec<String>,
    },
    /// A template is not Jinja, or not where it should be.
    #[error("{message}")]
    Malformed {
        /// The fault and its place.
        message: String,
    },
    /// The conversation has no message.
    #[error("the conversation has no message; give at least one")]
    NoMessages,
    /// The template refuses the conversation (`raise_exception`), as some do with a system's message.
    #[error("{message}")]
    Refused {
        /// The template's own words, with their place.
        message: String,
    },
    /// The template fails on the conversation.
    #[error("{message}")]
    Failed {
        /// Jinja's reason.
        message: String,
    },
    /// The template uses a function, filter, test or method that is not supported.
    #[error(
        "{message}; the template is at fault: put one that does without it into chat_template.jinja beside the tokenizer"
    )]
    Unsupported {
        /// The function, filter, test or method, and where it stands.
        message: String,
    },
    /// The template writes something before what the assistant says, and never as a generation prompt.
    #[error(
        "the template writes {header:?} before what the assistant says, and has no generation prompt, so that training would \
         learn it too; let the template write it under {{% if add_generation_prompt %}} at its end, mark what the assistant says \
         with {{% generation %}} and {{% endgeneration %}}, or set data.assistant_only_loss to false, to learn all of the chat"
    )]
    Header {
        /// The words that it writes there.
        header: String,
    },
    /// The template renders the conversation so that the assistant's tokens cannot be found in it.
    #[error("{message}")]
    Turns {
        /// The message at fault, and the way out.
        message: String,
    },
}

impl TemplateError {
    /// Whether another template is the way out, and another conversation is none.
    pub fn is_of_template(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::NoDefault { .. } | Self::Malformed { .. } => true,
            Self::Unsupported { .. } | Self::Header { .. } => true,
            Self::NoMessages | Self::Refused { .. } | Self::Failed { .. } | Self::Turns { .. } => false,
        }
    }
}

/// Why no token can be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// Options out of their range; every one is listed.
    #[error("{}", .0.join("; "))]
    Options(Vec<String>),
    /// Stop strings for a call that has no tokenizer.
    #[error("stop strings take a tokenizer: make a `TextDecoder` with one, and call `decode`")]
    StopStrings,
    /// The model's logits are broken.
    #[error("the model's logits hold NaN (first for token {token}); its weights or its dtype are at fault")]
    NotANumber {
        /// The first token with such a logit.
        token: usize,
    },
    /// The logits leave no token to choose.
    #[error("the highest of the {logits} logits is {highest}, which leaves no token to choose")]
    NoChoice {
        /// How many there are.
        logits: usize,
        /// The highest.
        highest: f32,
    },
}

/// Why a model or a data set is neither here nor could be had from the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HubCause {
    /// The name is neither a path that exists nor a hub id.
    NoSuchPath,
    /// A file that is no model.
    NotAModel,
    /// The hub has nothing of this name, or shows it only to others (401, 403 and 404).
    NotFound,
    /// The hub has it, but not the files that are needed.
    Incomplete,
    /// The hub cannot be reached, and the cache does not have it.
    Unreachable,
    /// `HF_HUB_OFFLINE` is set, and the cache does not have it.
    Offline,
    /// The hub answered with another error.
    Refused,
    /// A download broke off; trying again goes on where it stopped.
    Interrupted,
    /// This build is without the Cargo feature `hub`.
    NotCompiled,
}
