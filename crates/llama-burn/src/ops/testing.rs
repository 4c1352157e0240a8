//! Comparing an operation with its composed form.
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Tensor, TensorData, Tolerance};
use peft_burn::{TensorRng, test_device};

/// Normal random values that require gradients, on the device that `PEFT_TEST_DEVICE` names.
pub fn random<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let n = shape.iter().product();
    let data = TensorData::new(TensorRng::new(seed, "test").normal(n, 1.0), shape);
    Tensor::from_data(data, (&test_device().autodiff(), DType::F32))
}

/// The value of `f` and the gradients of its product with fixed weights with respect to each of `inputs`.
pub fn evaluate<const D: usize>(inputs: &[Tensor<D>], f: impl Fn(&[Tensor<D>]) -> Tensor<D>) -> Vec<TensorData> {
    let inputs: Vec<_> = inputs.iter().map(|t| t.clone().detach().require_grad()).collect();
    let y = f(&inputs);
    let weights = random(99, y.dims());
    let grads = (y.clone() * weights).sum().backward();
    let grads = inputs.iter().map(|t| t.grad(&grads).unwrap().into_data());
    std::iter::once(y.into_data()).chain(grads).collect()
}

/// Whether the device computes in `dtype`; what a test shows of it is not shown where it does not.
pub fn computes(dtype: DType) -> bool {
    test_device().supports_dtype(dtype)
}

/// That two evaluations agree.
pub fn assert_same(found: &[TensorData], expected: &[TensorData], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(tolerance, tolerance));
    }
}
