//! The limits of the engine, and the check of a request against them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::error::{Result, ServeError};
use crate::request::Request;

/// The bounds that a request is checked against before it comes to the engine.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub vocab: usize,
    pub context: usize,
    pub blocks: usize,
    pub block_tokens: usize,
    /// Blocks that are taken.
    pub taken: Arc<AtomicUsize>,
}

impl Limits {
    /// Refuses what the engine cannot run.
    pub fn check(&self, request: &Request) -> Result<()> {
        let invalid = |param: &str, message: String| Err(ServeError::invalid(param, message));
        if request.prompt.is_empty() {
            return invalid("prompt", "the prompt is empty: give at least one token".into());
        }
        if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= self.vocab) {
            return invalid("prompt", format!("token {id} is outside of the vocabulary of {}", self.vocab));
        }
        let (prompt, new) = (request.prompt.len(), request.max_tokens);
        let least = usize::from(new > 0);
        if prompt + least > self.context || prompt.saturating_add(new) > self.context {
            let message = format!(
                "the prompt has {prompt} tokens and {new} more are asked for, and the model's context is {} tokens",
                self.context
            );
            return Err(ServeError::Invalid {
                message,
                param: Some("messages".into()),
                code: Some("context_length_exceeded"),
            });
        }
        let blocks = (prompt + new).div_ceil(self.block_tokens);
        if blocks > self.blocks {
            let message = format!(
                "{prompt} tokens of the prompt and {new} new ones need {blocks} blocks of keys and values, and there are {}",
                self.blocks
            );
            return Err(ServeError::Invalid {
                message,
                param: Some("max_tokens".into()),
                code: Some("context_length_exceeded"),
            });
        }
        request.sampling.validate().map_err(|error| ServeError::Invalid {
            message: error.to_string(),
            param: None,
            code: None,
        })
    }
}
