//! Rotary position embedding: the frequencies that `LlamaRotaryEmbedding` of transformers uses.

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
}

impl RopeConfig {
    /// The `head_dim / 2` inverse frequencies, in radians per position.
    ///
    /// transformers computes them in f32, and rounding moves the angle of a late position visibly, so every step
    /// is rounded to f32 here as it is there. The values are f32 values in f64.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f64> {
        (0..head_dim)
            .step_by(2)
            .map(|i| {
                let exponent = i as f32 / head_dim as f32;
                let wavelength = (self.theta as f32 as f64).powf(exponent as f64) as f32;
                self.scaling.apply(1.0 / wavelength) as f64
            })
            .collect()
    }
}

impl RopeScaling {
    fn apply(&self, inv_freq: f32) -> f32 {
        match *self {
            RopeScaling::Default => inv_freq,
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
