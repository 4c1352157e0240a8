//! The choice of the next token from the model's logits, on the host.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::sampling_config::SamplingConfig;
use crate::error::{Result, SamplingError};

/// Chooses tokens for one sequence; equal configurations and logits give equal choices.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplingConfig,
    rng: ChaCha8Rng,
    scores: Vec<f32>,
    /// How often each token was chosen, where penalties ask for it.
    chosen: HashMap<u32, u32>,
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
        Ok(Self { config, rng, scores: Vec::new(), chosen: HashMap::new() })
    }

    /// The id chosen by `logits`, one a token of the vocabulary; `history` is the prompt and what was generated.
    ///
    /// # Errors
    /// [`LlamaError::Sampling`](crate::LlamaError::Sampling) where the logits hold a NaN or leave nothing to choose from.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32> {
        let id = self.choose(logits, history)?;
        if self.config.frequency_penalty != 0.0 || self.config.presence_penalty != 0.0 {
            *self.chosen.entry(id).or_default() += 1;
        }
        Ok(id)
    }

    fn choose(&mut self, logits: &[f32], history: &[u32]) -> Result<u32> {
        if let Some(id) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(SamplingError::NotANumber { token: id }.into());
        }
        self.process(logits, history);
        let best = self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !best.is_finite() {
            return Err(SamplingError::NoChoice { logits: logits.len(), highest: best }.into());
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
        let SamplingConfig { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self.config;
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
        let (frequency, presence) = (self.config.frequency_penalty, self.config.presence_penalty);
        for (&id, &count) in &self.chosen {
            if let Some(score) = self.scores.get_mut(id as usize) {
                *score -= frequency * count as f32 + presence;
            }
        }
        for (&id, bias) in &self.config.logit_bias {
            if let Some(score) = self.scores.get_mut(id as usize) {
                *score += bias;
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
        if min_p > 0.0 {
            let best = self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let least = best + min_p.ln();
            self.scores.iter_mut().filter(|score| **score < least).for_each(|score| *score = f32::NEG_INFINITY);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::*;

    fn config(json: &str) -> SamplingConfig {
        serde_json::from_str(json).unwrap()
    }

    fn chosen(config: &SamplingConfig, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(config.clone()).unwrap();
        (0..count).map(|_| sampler.sample(logits, &[]).unwrap()).collect()
    }

    #[test]
    fn scores_are_those_of_transformers() {
        let file: Value = serde_json::from_str(include_str!("../../tests/fixtures/sampling.json")).unwrap();
        let logits: Vec<f32> = serde_json::from_value(file["logits"].clone()).unwrap();
        let history: Vec<u32> = serde_json::from_value(file["history"].clone()).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let mut sampler = Sampler::new(config(&case["config"].to_string())).unwrap();
            sampler.process(&logits, &history);
            for (id, expected) in case["scores"].as_array().unwrap().iter().enumerate() {
                let expected = expected.as_f64().unwrap_or(f64::NEG_INFINITY) as f32;
                let score = sampler.scores[id];
                assert!(score == expected || (score - expected).abs() < 1e-6, "{case} {id}: {score}");
            }
        }
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_best() {
        assert_eq!(chosen(&SamplingConfig::default(), &[1.0, 3.0, 3.0, f32::NEG_INFINITY], 3), [1, 1, 1]);
        let penalised = config(r#"{"repetition_penalty": 4.0}"#);
        assert_eq!(Sampler::new(penalised).unwrap().sample(&[1.0, 3.0, 2.0], &[1]).unwrap(), 2);
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln(), f32::NEG_INFINITY];
        let drawn = chosen(&config(r#"{"temperature": 1.0, "seed": 7}"#), &logits, 8000);
        let share = |id: u32| drawn.iter().filter(|&&other| other == id).count() as f64 / 8000.0;
        for (id, probability) in [(0, 0.125), (1, 0.25), (2, 0.625), (3, 0.0)] {
            assert!((share(id) - probability).abs() < 0.02, "{id}: {}", share(id));
        }
        let drawn = chosen(&config(r#"{"temperature": 1.0, "top_k": 2}"#), &logits, 200);
        assert!(drawn.contains(&1) && drawn.contains(&2) && !drawn.contains(&0));
    }

    #[test]
    fn unlikely_tokens_are_left_out_by_min_p_and_biases_move_the_choice() {
        let logits = [0.0, 2.0_f32.ln(), 10.0_f32.ln()];
        let drawn = chosen(&config(r#"{"temperature": 1.0, "min_p": 0.15}"#), &logits, 300);
        assert!(drawn.contains(&1) && drawn.contains(&2) && !drawn.contains(&0));
        assert_eq!(chosen(&config(r#"{"logit_bias": {"0": 5.0, "9": 100.0}}"#), &logits, 1), [0]);
        assert_eq!(chosen(&config(r#"{"logit_bias": {"2": -100.0}}"#), &logits, 1), [1]);
    }

    #[test]
    fn what_was_generated_is_penalised_once_or_each_time_and_the_prompt_is_not() {
        let logits = [0.0, 1.0, 1.9];
        let drawn = |json: &str| {
            let mut sampler = Sampler::new(config(json)).unwrap();
            (0..4).map(|_| sampler.sample(&logits, &[2, 2, 2]).unwrap()).collect::<Vec<_>>()
        };
        // 1.9, 1.4, 0.9: then 1 has its turn.
        assert_eq!(drawn(r#"{"frequency_penalty": 0.5}"#), [2, 2, 1, 2]);
        assert_eq!(drawn(r#"{"presence_penalty": 0.8}"#), [2, 2, 2, 2]);
        assert_eq!(drawn(r#"{"presence_penalty": 1.2}"#), [2, 1, 2, 2]);
    }

    #[test]
    fn the_seed_and_the_row_decide_the_draw() {
        let logits = vec![0.0; 1000];
        let hot = |seed: u64| SamplingConfig { temperature: 1.0, seed, ..Default::default() };
        assert_eq!(chosen(&hot(1), &logits, 20), chosen(&hot(1), &logits, 20));
        assert_ne!(chosen(&hot(1), &logits, 20), chosen(&hot(2), &logits, 20));
        let mut second = Sampler::for_row(hot(1), 1).unwrap();
        let row: Vec<u32> = (0..20).map(|_| second.sample(&logits, &[]).unwrap()).collect();
        assert_ne!(row, chosen(&hot(1), &logits, 20));
    }

    #[test]
    fn logits_without_a_choice_are_an_error() {
        let mut sampler = Sampler::new(config(r#"{"temperature": 1.0}"#)).unwrap();
        let error = sampler.sample(&[0.0, f32::NAN], &[]).unwrap_err().to_string();
        assert!(error.contains("NaN (first for token 1)"), "{error}");
        for logits in [&[][..], &[f32::NEG_INFINITY; 3], &[0.0, f32::INFINITY]] {
            let error = sampler.sample(logits, &[]).unwrap_err().to_string();
            assert!(error.contains("leaves no token to choose"), "{error}");
        }
        // An id beyond the logits in the history is no reason to fail.
        let mut sampler = Sampler::new(config(r#"{"repetition_penalty": 2.0}"#)).unwrap();
        assert_eq!(sampler.sample(&[0.0, 1.0], &[99]).unwrap(), 1);
    }
}
