//! The choice of the next token from the model's logits, on the host.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{LlamaError, Result};

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
    /// Makes the tokens of the text so far less likely: positive logits are divided by it, negative multiplied; 1 is off.
    pub repetition_penalty: f32,
    /// Seeds the random choice.
    pub seed: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplingConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`LlamaError::Sampling`] with every option that is out of range.
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
        if problems.is_empty() { Ok(()) } else { Err(LlamaError::Sampling { message: problems.join("; ") }) }
    }
}

/// Chooses tokens for one sequence; equal configurations and logits give equal choices.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplingConfig,
    rng: ChaCha8Rng,
    scores: Vec<f32>,
}

impl Sampler {
    /// A sampler for the first or only sequence.
    ///
    /// # Errors
    /// As [`SamplingConfig::validate`].
    pub fn new(config: SamplingConfig) -> Result<Self> {
        Self::for_row(config, 0)
    }

    /// A sampler for sequence `row` of a batch: each row draws its own random numbers.
    ///
    /// # Errors
    /// As [`SamplingConfig::validate`].
    pub fn for_row(config: SamplingConfig, row: u64) -> Result<Self> {
        config.validate()?;
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(row);
        Ok(Self { config, rng, scores: Vec::new() })
    }

    /// The id chosen by `logits`, one a token of the vocabulary; `history` is the prompt and what was generated.
    ///
    /// # Errors
    /// [`LlamaError::Sampling`] where the logits hold a NaN or leave nothing to choose from.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32> {
        if let Some(id) = logits.iter().position(|logit| logit.is_nan()) {
            let message =
                format!("the model's logits hold NaN (first for token {id}); its weights or its dtype are at fault");
            return Err(LlamaError::Sampling { message });
        }
        self.process(logits, history);
        let best = self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !best.is_finite() {
            let message =
                format!("the highest of the {} logits is {best}, which leaves no token to choose", logits.len());
            return Err(LlamaError::Sampling { message });
        }
        if self.config.temperature == 0.0 {
            return Ok(self.scores.iter().position(|&score| score == best).unwrap_or_default() as u32);
        }
        let weight = |score: f32| f64::from(score - best).exp();
        let total: f64 = self.scores.iter().map(|&score| weight(score)).sum();
        let mut left = self.rng.random::<f64>() * total;
        let mut chosen = 0;
        for (id, &score) in self.scores.iter().enumerate().filter(|(_, score)| score.is_finite()) {
            chosen = id;
            left -= weight(score);
            if left < 0.0 {
                break;
            }
        }
        Ok(chosen as u32)
    }

    /// The scores after transformers' logits processors, in their order; what is ruled out is minus infinity.
    fn process(&mut self, logits: &[f32], history: &[u32]) {
        let SamplingConfig { temperature, top_k, top_p, repetition_penalty, .. } = self.config;
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        if repetition_penalty != 1.0 {
            for &id in history {
                // From the logits, not the scores: a token that occurs twice is penalised once.
                if let (Some(&logit), Some(score)) = (logits.get(id as usize), self.scores.get_mut(id as usize)) {
                    *score = if logit < 0.0 { logit * repetition_penalty } else { logit / repetition_penalty };
                }
            }
        }
        if temperature == 0.0 {
            return;
        }
        self.scores.iter_mut().for_each(|score| *score /= temperature);
        if top_k > 0 && top_k < self.scores.len() {
            keep_top_k(&mut self.scores, top_k);
        }
        if top_p < 1.0 {
            keep_top_p(&mut self.scores, top_p);
        }
    }
}

fn keep_top_k(scores: &mut [f32], k: usize) {
    let mut sorted = scores.to_vec();
    let (_, &mut threshold, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    scores.iter_mut().filter(|score| **score < threshold).for_each(|score| *score = f32::NEG_INFINITY);
}

/// Rules out, from the least likely on, the tokens whose probabilities together do not exceed `1 - p`; never the
/// most likely one.
fn keep_top_p(scores: &mut [f32], p: f32) {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&id| scores[id].is_finite()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let Some((&best, others)) = order.split_last() else { return };
    let weight = |id: usize| f64::from(scores[id] - scores[best]).exp();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut sum = 0.0;
    let removed = others.iter().take_while(|&&id| {
        sum += weight(id);
        sum / total <= 1.0 - f64::from(p)
    });
    let removed: Vec<usize> = removed.copied().collect();
    removed.into_iter().for_each(|id| scores[id] = f32::NEG_INFINITY);
}
