use burn::tensor::activation::silu;
use burn::tensor::{DType, Tensor, Tolerance};

use super::{Activation, glu, scaled_glu, scaled_swiglu, swiglu};
use crate::testing::{assert_finite_differences, assert_near, assert_same, computes, evaluate, random};

#[test]
fn fused_is_composed_with_both_gradients() {
    for shape in [[1, 1], [3, 5], [70, 33], [129, 1536]] {
        let inputs = [random(1, shape) * 4.0, random(2, shape)];
        let fused = evaluate(&inputs, |t| swiglu(t[0].clone(), t[1].clone()));
        assert_same(&fused, &evaluate(&inputs, |t| silu(t[0].clone()) * t[1].clone()), 1e-5);
    }
}

/// l as the other inputs are, a row of a matrix.
fn scaled(t: &[Tensor<2>]) -> Tensor<2> {
    scaled_swiglu(t[0].clone(), t[1].clone(), t[2].clone().flatten(0, 1))
}

#[test]
fn scaled_is_composed_with_every_gradient() {
    for shape in [[1, 1], [3, 5], [70, 33], [129, 1536]] {
        let inputs = [random(1, shape) * 4.0, random(2, shape), random(3, [1, shape[1]])];
        let composed = evaluate(&inputs, |t| silu(t[0].clone()) * t[1].clone() * t[2].clone());
        assert_same(&evaluate(&inputs, scaled), &composed, 1e-4);
    }
    let one = [random(1, [5, 7]), random(3, [1, 7])];
    let fused = evaluate(&one, |t| scaled(&[t[0].clone(), t[0].clone(), t[1].clone()]));
    assert_same(&fused, &evaluate(&one, |t| silu(t[0].clone()) * t[0].clone() * t[1].clone()), 1e-4);
}

#[test]
fn one_tensor_in_both_places() {
    let inputs = [random(1, [5, 7])];
    let fused = evaluate(&inputs, |t| swiglu(t[0].clone(), t[0].clone()));
    assert_same(&fused, &evaluate(&inputs, |t| silu(t[0].clone()) * t[0].clone()), 1e-5);
}

#[test]
fn gradients_are_the_slopes() {
    assert_finite_differences(&[random(5, [3, 4]), random(6, [3, 4])], |t| swiglu(t[0].clone(), t[1].clone()));
    assert_finite_differences(&[random(5, [3, 4]), random(6, [3, 4]), random(7, [1, 4])], scaled);
}

#[test]
fn half_precision() {
    if !computes(DType::BF16) {
        return;
    }
    let (gate, up) = (random(3, [4, 64]), random(4, [4, 64]));
    let expected = (silu(gate.clone()) * up.clone()).into_data();
    let half = swiglu(gate.clone().cast(DType::BF16), up.clone().cast(DType::BF16)).cast(DType::F32).into_data();
    half.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(0.03, 0.03));
    let single = evaluate(&[gate.clone(), up.clone(), random(5, [1, 64])], scaled);
    let half = evaluate(&[gate, up, random(5, [1, 64])], |t| {
        let y = scaled(&[t[0].clone().cast(DType::BF16), t[1].clone().cast(DType::BF16), t[2].clone()]);
        assert_eq!(y.dtype(), DType::BF16);
        y.cast(DType::F32)
    });
    assert_near(&half, &single);
}

/// By the definition of PyTorch's documentation.
fn gelu(x: Tensor<2>) -> Tensor<2> {
    let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
    x * 0.5 * (inner.tanh() + 1.0)
}

#[test]
fn gelu_is_its_definition_with_every_gradient() {
    let act = Activation::GeluTanh;
    for shape in [[1, 1], [3, 5], [70, 33], [129, 1536]] {
        let inputs = [random(1, shape) * 4.0, random(2, shape), random(3, [1, shape[1]])];
        let fused = evaluate(&inputs[..2], |t| glu(t[0].clone(), t[1].clone(), act));
        assert_same(&fused, &evaluate(&inputs[..2], |t| gelu(t[0].clone()) * t[1].clone()), 1e-4);
        let fused = evaluate(&inputs, |t| scaled_glu(t[0].clone(), t[1].clone(), t[2].clone().flatten(0, 1), act));
        let composed = evaluate(&inputs, |t| gelu(t[0].clone()) * t[1].clone() * t[2].clone());
        assert_same(&fused, &composed, 1e-4);
    }
    let inputs = [random(5, [3, 4]), random(6, [3, 4])];
    assert_finite_differences(&inputs, |t| glu(t[0].clone(), t[1].clone(), act));
}
