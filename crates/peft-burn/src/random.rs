//! Random values for adapters, drawn on the host: one seed gives one adapter on every backend.

use std::cell::Cell;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

thread_local! {
    /// Whether this thread draws nothing at present.
    static UNDRAWN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, in which this thread draws nothing: all values are zero. For parameters that a file is about to fill.
pub(crate) fn undrawn<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            UNDRAWN.set(self.0);
        }
    }
    let _restore = Restore(UNDRAWN.replace(true));
    f()
}

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
            _ if UNDRAWN.get() => vec![0.0; n],
            Ok(distribution) => distribution.sample_iter(&mut self.0).take(n).collect(),
            Err(_) => vec![0.0; n],
        }
    }

    /// `n` values uniform in [−`bound`, `bound`).
    pub fn uniform(&mut self, n: usize, bound: f32) -> Vec<f32> {
        match Uniform::new(-bound, bound) {
            _ if UNDRAWN.get() => vec![0.0; n],
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

    #[test]
    fn what_a_file_will_fill_is_not_drawn_and_what_follows_is() {
        let drawn = || TensorRng::new(1, "a").normal(3, 1.0);
        let before = drawn();
        assert_eq!(undrawn(drawn), [0.0; 3]);
        assert_eq!(drawn(), before);
        assert!(before.iter().all(|v| *v != 0.0));
    }
}
