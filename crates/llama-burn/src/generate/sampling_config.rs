//! How the next token is chosen, in words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Result, SamplingError};

/// How the next token is chosen; transformers' `GenerationConfig` keys, with the seed beside them.
///
/// The default is greedy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Divides the logits; 0 chooses the most likely token (`do_sample=False`).
    pub temperature: f32,
    /// Keeps the so many most likely tokens, and those level with the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most likely tokens whose probabilities reach this; 1 keeps all.
    pub top_p: f32,
    /// Keeps the tokens that are at least this times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Makes the tokens of the text so far less likely: positive logits are divided by it, negative multiplied; 1 is off.
    pub repetition_penalty: f32,
    /// Taken from the logit of a token for each time that it was generated; between -2 and 2.
    pub frequency_penalty: f32,
    /// Taken from the logit of a token that was generated, however often; between -2 and 2.
    pub presence_penalty: f32,
    /// Added to the logits of tokens; between -100 and 100.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Seeds the random choice.
    pub seed: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

peft_burn::setters!(SamplingConfig {
    /// Keeps the `k` most likely tokens; 0 keeps all.
    with_top_k(k: usize) { top_k: k }
    /// Keeps the fewest most likely tokens whose probabilities reach `p`; 1 keeps all.
    with_top_p(p: f32) { top_p: p }
    /// Keeps the tokens that are at least `p` times as likely as the most likely one; 0 keeps all.
    with_min_p(p: f32) { min_p: p }
    /// Makes the tokens of the text so far less likely; 1 is off.
    with_repetition_penalty(penalty: f32) { repetition_penalty: penalty }
    /// Takes `penalty` from the logit of a token for each time that it was generated.
    with_frequency_penalty(penalty: f32) { frequency_penalty: penalty }
    /// Takes `penalty` from the logit of a token that was generated, however often.
    with_presence_penalty(penalty: f32) { presence_penalty: penalty }
    /// Adds these numbers to the logits of tokens: `[(7, -100.0)]` keeps token 7 from being chosen.
    with_logit_bias(bias: impl IntoIterator<Item = (u32, f32)>) { logit_bias: bias.into_iter().collect() }
    /// Seeds the random choice.
    with_seed(seed: u64) { seed: seed }
});

impl SamplingConfig {
    /// Tokens by chance at this temperature; 0 chooses the most likely one.
    pub fn new(temperature: f32) -> Self {
        Self { temperature, ..Self::default() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`LlamaError::Sampling`](crate::LlamaError::Sampling) with every option that is out of range.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Vec::new();
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            problems.push(format!("temperature must be 0 (greedy) or above, but is {}", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            problems.push(format!("top_p must be above 0 and at most 1, but is {}", self.top_p));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            problems.push(format!("repetition_penalty must be above 0, but is {}", self.repetition_penalty));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            problems.push(format!("min_p must be between 0 and 1, but is {}", self.min_p));
        }
        for (name, penalty) in [("frequency", self.frequency_penalty), ("presence", self.presence_penalty)] {
            if !(-2.0..=2.0).contains(&penalty) {
                problems.push(format!("{name}_penalty must be between -2 and 2, but is {penalty}"));
            }
        }
        for (id, bias) in self.logit_bias.iter().filter(|(_, bias)| !(-100.0..=100.0).contains(*bias)) {
            problems.push(format!("logit_bias must be between -100 and 100, but is {bias} for token {id}"));
        }
        if problems.is_empty() { Ok(()) } else { Err(SamplingError::Options(problems).into()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn impossible_options_are_all_listed() {
        let options =
            SamplingConfig { temperature: -1.0, top_p: 0.0, repetition_penalty: f32::NAN, ..Default::default() };
        let error = options.validate().unwrap_err().to_string();
        for part in
            ["temperature must be 0 (greedy) or above, but is -1", "top_p must be", "repetition_penalty must be"]
        {
            assert!(error.contains(part), "{error}");
        }
    }
}
