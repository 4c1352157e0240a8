//! Comparing an operation with its composed form.
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};
use peft_burn::TensorRng;

/// Normal random values that require gradients.
pub fn random<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let n = shape.iter().product();
    let data = TensorData::new(TensorRng::new(seed, "test").normal(n, 1.0), shape);
    Tensor::from_data(data, (&Device::flex().autodiff(), DType::F32))
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

/// That two evaluations agree.
pub fn assert_same(found: &[TensorData], expected: &[TensorData], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(tolerance, tolerance));
    }
}
