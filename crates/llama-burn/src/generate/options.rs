//! How long to generate and how to choose.

use super::sampling_config::SamplingConfig;

/// When a text ends, how its tokens are chosen, and what is told of them.
///
/// ```
/// use llama_burn::{GenerateOptions, SamplingConfig};
/// let options = GenerateOptions::new(40).with_sampling(SamplingConfig::new(0.7).with_top_p(0.9)).with_stop_strings(["\n"]);
/// assert_eq!((options.max_new_tokens, options.sampling.top_p), (40, 0.9));
/// ```
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

impl GenerateOptions {
    /// At most `max_new_tokens` tokens for each prompt, chosen greedily.
    pub fn new(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, ..Self::default() }
    }
}

peft_burn::setters!(GenerateOptions {
    /// Sets how a token is chosen.
    with_sampling(sampling: SamplingConfig) { sampling: sampling }
    /// Sets the tokens that end a text.
    with_stop(ids: impl IntoIterator<Item = u32>) { stop: ids.into_iter().collect() }
    /// Sets the strings that end a text.
    with_stop_strings(strings: impl IntoIterator<Item = impl Into<String>>) {
        stop_strings: strings.into_iter().map(Into::into).collect()
    }
    /// Asks for the log-probabilities of the new tokens, with the `top` most likely ones each.
    with_logprobs(top: usize) { logprobs: Some(top) }
});
