//! Random cases for operations, and comparisons of what they return with their composed form and with finite differences.
//!
//! Its functions are assertions: they panic where a test would fail.
#![allow(clippy::unwrap_used, clippy::panic)]

use burn::tensor::{DType, Tensor, TensorData, Tolerance};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

mod device;

pub use device::test_device;

/// Values of the standard normal distribution without end, the same for one seed on every machine.
pub fn normal(seed: u64) -> impl Iterator<Item = f32> {
    StandardNormal.sample_iter(ChaCha8Rng::seed_from_u64(seed))
}

/// Normal random values of any shape that require gradients, on the device that `PEFT_TEST_DEVICE` names.
pub fn random<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let n = shape.iter().product();
    let data = TensorData::new(normal(seed).take(n).collect::<Vec<_>>(), shape);
    Tensor::from_data(data, (&test_device().autodiff(), DType::F32))
}

/// The same values on the CPU: an expectation that is worked out there is another machine's, and a slow device need not
/// compile what makes it.
pub fn on_cpu<const D: usize>(tensors: &[Tensor<D>]) -> Vec<Tensor<D>> {
    tensors
        .iter()
        .map(|t| Tensor::from_data(t.to_data(), (&burn::tensor::Device::flex().autodiff(), t.dtype())))
        .collect()
}

/// The value of `f` and the gradients of its product with fixed weights with respect to each of `inputs`.
pub fn evaluate<const D: usize>(inputs: &[Tensor<D>], f: impl Fn(&[Tensor<D>]) -> Tensor<D>) -> Vec<TensorData> {
    let inputs: Vec<_> = inputs.iter().map(|t| t.clone().detach().require_grad()).collect();
    let y = f(&inputs);
    let weights = Tensor::from_data(random(99, y.dims()).into_data(), (&y.device(), y.dtype()));
    let grads = (y.clone() * weights).sum().backward();
    let grads = inputs.iter().map(|t| t.grad(&grads).unwrap().into_data());
    std::iter::once(y.into_data()).chain(grads).collect()
}

/// Whether the device computes in `dtype`; what a test shows of it is not shown where it does not.
pub fn computes(dtype: DType) -> bool {
    let device = test_device();
    // WebGPU over Vulkan may have f64 but no exponential of it, and gives another value.
    let exponential = || {
        let one = Tensor::<1>::from_data(TensorData::new(vec![1.0f64], [1]), (&device, DType::F64));
        (one.exp().into_scalar::<f64>() - std::f64::consts::E).abs() < 1e-12
    };
    device.supports_dtype(dtype) && (dtype != DType::F64 || exponential())
}

/// That two evaluations agree.
pub fn assert_same(found: &[TensorData], expected: &[TensorData], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(tolerance, tolerance));
    }
}

/// That two evaluations agree within bf16's precision of the largest value.
pub fn assert_near(found: &[TensorData], expected: &[TensorData]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let largest = expected.iter::<f32>().fold(0.0f32, |m, v| m.max(v.abs()));
        found.assert_approx_eq::<f32>(expected, Tolerance::absolute(largest * 0.02));
    }
}

/// That the gradients of `f` in f64, which its backward pass works out, are those that moving each entry of `inputs` a
/// little to both sides shows. Nothing is shown where the device does not compute in f64.
pub fn assert_finite_differences<const D: usize>(inputs: &[Tensor<D>], f: impl Fn(&[Tensor<D>]) -> Tensor<D>) {
    const STEP: f64 = 1e-5;
    if !computes(DType::F64) {
        return;
    }
    let doubles: Vec<_> = inputs.iter().map(|t| t.clone().detach().cast(DType::F64)).collect();
    let grads = evaluate(&doubles, &f).split_off(1);
    let plain: Vec<Tensor<D>> = doubles.iter().map(|t| t.clone().inner()).collect();
    let weights = random(99, f(&plain).dims()).inner().cast(DType::F64);
    let value = |inputs: &[Tensor<D>]| (f(inputs) * weights.clone()).sum().into_scalar::<f64>();
    for (input, grad) in grads.iter().enumerate() {
        let data = plain[input].to_data();
        for (entry, grad) in grad.iter::<f64>().enumerate() {
            let moved = |by: f64| {
                let mut values: Vec<f64> = data.iter::<f64>().collect();
                values[entry] += by;
                let mut inputs = plain.clone();
                let moved = TensorData::new(values, data.shape().clone());
                inputs[input] = Tensor::from_data(moved, (&plain[input].device(), DType::F64));
                value(&inputs)
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let off = (slope - grad).abs();
            assert!(
                off <= 1e-6 * (1.0 + slope.abs()),
                "input {input}, entry {entry}: {grad}, and {slope} by differences"
            );
        }
    }
}
