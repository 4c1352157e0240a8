//! Dropout of an adapter's input.

use burn::tensor::{Bool, Distribution, Tensor};

/// Zeroes each entry with probability `p` and scales the rest by 1/(1−p), in training only.
pub(crate) fn dropout<const D: usize>(x: Tensor<D>, p: f64, training: bool) -> Tensor<D> {
    if p == 0.0 || !training {
        return x;
    }
    let drop: Tensor<D, Bool> = x.random_like(Distribution::Bernoulli(p)).bool();
    x.mask_fill(drop, 0.0).mul_scalar(1.0 / (1.0 - p))
}
