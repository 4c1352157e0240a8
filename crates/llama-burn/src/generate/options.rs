//! How long to generate and how to choose.

use super::sampling_config::SamplingConfig;

/// When a text ends, how its tokens are chosen, and what is told of them.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// At most so many new tokens for each prompt.
    pub max_new_tokens: usize,
    /// How a token is chosen; greedy by default.
    pub sampling: SamplingConfig,
    /// Tokens that end a text. They are not part of the result.
    pub stop: Vec<u32>,
    /// Strings that end a text. They are not part of it. Finding them takes a tokenizer.
    pub stop_strings: Vec<String>,
    /// Log-probabilities of the new tokens, with so many of the most likely ones each.
    pub logprobs: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            sampling: SamplingConfig::default(),
            stop: Vec::new(),
            stop_strings: Vec::new(),
            logprobs: None,
        }
    }
}
