//! Rotary position embedding: the frequencies that Transformers uses.

use serde::{Deserialize, Serialize};

/// Base and scaling of the rotary position embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeConfig {
    /// The base of the geometric series of wavelengths (`rope_theta`).
    pub theta: f64,
    /// How the frequencies are stretched for contexts longer than those of pretraining.
    pub scaling: RopeScaling,
}

/// The `rope_type` of transformers, with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum RopeScaling {
    /// Frequencies as they are.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, those between interpolated.
    Llama3 {
        /// How many times longer the context becomes.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context length of pretraining, in tokens.
        original_max_position_embeddings: usize,
    },
    /// As default, up to the model's context; longer texts have a larger theta, by their length (NTK-aware scaling).
    Dynamic {
        /// How much the context grows.
        factor: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv:2309.00071): long wavelengths divided by `factor`, short ones kept, a ramp between.
    Yarn {
        /// How many times longer the context becomes.
        factor: f64,
        /// The factor of cosines and sines; else it follows from `factor` and the `mscale`s.
        #[serde(skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
        /// Turns within the context of pretraining from which frequencies are kept.
        beta_fast: f64,
        /// Turns within it up to which they are divided.
        beta_slow: f64,
        /// See `attention_factor`.
        #[serde(skip_serializing_if = "Option::is_none")]
        mscale: Option<f64>,
        /// See `attention_factor`.
        #[serde(skip_serializing_if = "Option::is_none")]
        mscale_all_dim: Option<f64>,
        /// Whether the ends of the ramp are whole.
        truncate: bool,
        /// The context length of pretraining, in tokens.
        original_max_position_embeddings: usize,
    },
    /// LongRoPE (Ding et al. 2024, arXiv:2402.13753): a divisor for each frequency, of texts up to the context of
    /// pretraining and of longer ones.
    LongRope {
        /// For texts up to `original_max_position_embeddings` tokens.
        short_factor: Vec<f64>,
        /// For longer ones.
        long_factor: Vec<f64>,
        /// How many times longer the context became; else it follows from `max_position_embeddings`.
        #[serde(skip_serializing_if = "Option::is_none")]
        factor: Option<f64>,
        /// The factor of cosines and sines; else it follows from `factor`.
        #[serde(skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
        /// The context length of pretraining, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// Which frequencies a text has, where they depend on its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// The frequencies of a text within the context.
    Short,
    /// The frequencies of a longer text, whatever its length.
    Long,
    /// The frequencies of a text of exactly so many tokens.
    Exact(usize),
}

impl RopeConfig {
    /// The `head_dim / 2` inverse frequencies, in radians per position.
    ///
    /// transformers computes them in f32, and rounding moves the angle of a late position visibly, so every step
    /// is rounded to f32 here as it is there. The values are f32 values in f64.
    ///
    /// They are those of texts within the model's context, where they depend on a text's length.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f64> {
        self.stretched(head_dim, head_dim, Stretch::Short)
    }

    /// Which frequencies a text of `length` tokens has in a model whose context is `context`.
    pub(crate) fn stretch(&self, context: usize, length: usize) -> Stretch {
        match self.scaling {
            RopeScaling::LongRope { original_max_position_embeddings: original, .. } if length > original => {
                Stretch::Long
            }
            RopeScaling::Dynamic { .. } if length > context => Stretch::Exact(length),
            _ => Stretch::Short,
        }
    }

    /// As [`Self::inv_freq`], of a text that is stretched so, in a model whose context is `context`.
    pub(crate) fn stretched(&self, head_dim: usize, context: usize, stretch: Stretch) -> Vec<f64> {
        let theta = match (&self.scaling, stretch) {
            (RopeScaling::Dynamic { factor }, Stretch::Exact(length)) => {
                let growth = factor * length as f64 / context as f64 - (factor - 1.0);
                self.theta * growth.powf(head_dim as f64 / (head_dim as f64 - 2.0))
            }
            _ => self.theta,
        };
        let ramp = self.ramp(head_dim);
        (0..head_dim)
            .step_by(2)
            .map(|i| {
                let exponent = i as f32 / head_dim as f32;
                let wavelength = (theta as f32 as f64).powf(exponent as f64) as f32;
                let inv_freq = match &self.scaling {
                    RopeScaling::LongRope { short_factor, long_factor, .. } => {
                        let factors = if stretch == Stretch::Long { long_factor } else { short_factor };
                        1.0 / (factors.get(i / 2).copied().unwrap_or(1.0) as f32 * wavelength)
                    }
                    RopeScaling::Yarn { factor, .. } => {
                        let (low, high) = ramp;
                        let divided = (((i / 2) as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                        let kept = 1.0 - divided;
                        1.0 / (*factor as f32 * wavelength) * (1.0 - kept) + 1.0 / wavelength * kept
                    }
                    scaling => scaling.apply(1.0 / wavelength),
                };
                inv_freq as f64
            })
            .collect()
    }

    /// The factor of cosines and sines in a model whose context is `context`.
    pub(crate) fn attention_factor(&self, context: usize) -> f64 {
        let magnitude = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
        match &self.scaling {
            RopeScaling::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } => attention_factor
                .unwrap_or_else(|| match (mscale, mscale_all_dim) {
                    (Some(one), Some(all)) => magnitude(*factor, *one) / magnitude(*factor, *all),
                    _ => magnitude(*factor, 1.0),
                }),
            RopeScaling::LongRope { factor, attention_factor, original_max_position_embeddings, .. } => {
                let original = *original_max_position_embeddings as f64;
                let factor = factor.unwrap_or(context as f64 / original);
                let of_factor = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                attention_factor.unwrap_or(of_factor)
            }
            _ => 1.0,
        }
    }

    /// Between which frequencies YaRN goes over from keeping to dividing.
    fn ramp(&self, dims: usize) -> (f64, f64) {
        let RopeScaling::Yarn { beta_fast, beta_slow, truncate, original_max_position_embeddings, .. } = self.scaling
        else {
            return (0.0, 1.0);
        };
        let (dims, original) = (dims as f64, original_max_position_embeddings as f64);
        // Which frequency turns so many times within the context of pretraining.
        let turns = |n: f64| dims * (original / (n * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln());
        let (low, high) = (turns(beta_fast), turns(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dims - 1.0));
        (low, if low == high { high + 0.001 } else { high })
    }
}

impl RopeScaling {
    fn apply(&self, inv_freq: f32) -> f32 {
        match *self {
            RopeScaling::Default
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::LongRope { .. } => inv_freq,
            RopeScaling::Linear { factor } => inv_freq / factor as f32,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f64;
                // A Python number divided by a tensor is the tensor's reciprocal times the number.
                let wavelength = (1.0 / inv_freq) * (2.0 * std::f64::consts::PI) as f32;
                if wavelength > (original / low_freq_factor) as f32 {
                    return inv_freq / factor as f32;
                }
                if wavelength < (original / high_freq_factor) as f32 {
                    return inv_freq;
                }
                let smooth = ((1.0 / wavelength) * original as f32 - low_freq_factor as f32)
                    / (high_freq_factor - low_freq_factor) as f32;
                (1.0 - smooth) * inv_freq / factor as f32 + smooth * inv_freq
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use serde_json::Value;

    use crate::LlamaConfig;

    #[test]
    fn inverse_frequencies_are_those_of_transformers() {
        let cases: Vec<Value> = serde_json::from_str(include_str!("../../tests/fixtures/rope_inv_freq.json")).unwrap();
        for case in cases {
            let config = LlamaConfig::from_json(&case["config"].to_string(), Path::new("config.json")).unwrap();
            let expected: Vec<f64> = serde_json::from_value(case["inv_freq"].clone()).unwrap();
            let inv_freq = config.rope.inv_freq(config.head_dim);
            assert_eq!(inv_freq.len(), expected.len());
            for (i, (ours, theirs)) in inv_freq.iter().zip(&expected).enumerate() {
                assert_eq!(ours, theirs, "{:?} {i}", config.rope);
            }
        }
    }
}
