//! Random values for adapters, drawn on the host: one seed gives one adapter on every backend.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

/// A generator for one named tensor: the same seed and name give the same numbers, whatever else is drawn and in
/// whatever order.
#[derive(Debug)]
pub struct TensorRng(ChaCha8Rng);

impl TensorRng {
    /// The generator of the tensor `name` in the run `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: stable across platforms and releases, unlike std's hasher.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Self(ChaCha8Rng::seed_from_u64(seed ^ hash.rotate_left(17)))
    }

    /// `n` values of N(0, `std`²).
    pub fn normal(&mut self, n: usize, std: f32) -> Vec<f32> {
        match Normal::new(0.0_f32, std) {
            Ok(distribution) => distribution.sample_iter(&mut self.0).take(n).collect(),
            Err(_) => vec![0.0; n],
        }
    }

    /// `n` values uniform in [−`bound`, `bound`).
    pub fn uniform(&mut self, n: usize, bound: f32) -> Vec<f32> {
        match Uniform::new(-bound, bound) {
            Ok(distribution) => distribution.sample_iter(&mut self.0).take(n).collect(),
            Err(_) => vec![0.0; n],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_the_same_for_one_seed_and_differs_by_name() {
        let draw = |seed, name| TensorRng::new(seed, name).normal(8, 1.0);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let n = 20_000;
        let mut rng = TensorRng::new(3, "x");
        let normal = rng.normal(n, 0.5);
        let var = normal.iter().map(|v| v * v).sum::<f32>() / n as f32;
        assert!((var - 0.25).abs() < 0.01, "{var}");
        let uniform = rng.uniform(n, 2.0);
        assert!(uniform.iter().all(|v| v.abs() <= 2.0));
        let var = uniform.iter().map(|v| v * v).sum::<f32>() / n as f32;
        assert!((var - 4.0 / 3.0).abs() < 0.05, "{var}");
    }
}
