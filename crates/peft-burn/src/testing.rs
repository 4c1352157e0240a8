//! Helpers of several unit tests.

use burn::tensor::{Device, Tensor, TensorData, Tolerance};

use crate::random::TensorRng;

/// Random values of the same seed: `[rows, columns]`.
pub fn matrix(rows: usize, columns: usize, seed: u64) -> Tensor<2> {
    let values = TensorRng::new(seed, "m").normal(rows * columns, 0.5);
    Tensor::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
}

/// Asserts that no two entries are further apart than 1e-5.
pub fn close(a: Tensor<2>, b: Tensor<2>) {
    a.into_data().assert_approx_eq::<f32>(&b.into_data(), Tolerance::absolute(1e-5));
}
