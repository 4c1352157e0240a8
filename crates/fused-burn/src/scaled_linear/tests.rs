use burn::tensor::{DType, Tensor, TensorData};

use super::scaled_linear;
use crate::linear;
use crate::testing::{assert_finite_differences, assert_near, assert_same, computes, evaluate, random, test_device};

const SHAPES: [[usize; 3]; 3] = [[1, 1, 1], [3, 5, 7], [130, 65, 200]];

/// A row of factors as inputs of rank two are.
fn factors(t: &Tensor<2>) -> Tensor<1> {
    let [_, out] = t.dims();
    t.clone().reshape([out])
}

/// Factors, some of them zero or so small that the product cannot be told from what they made of it.
fn vanishing(out: usize) -> Tensor<2> {
    let c = (0..out).map(|i| [0.5, 0.0, 1e-30, -2.0][i % 4] * (1.0 + i as f32 / 100.0)).collect();
    Tensor::from_data(TensorData::new(c, [1, out]), &test_device().autodiff())
}

#[test]
fn a_scaled_product_is_the_composed_form_with_every_gradient() {
    for [n, inp, out] in SHAPES {
        for weight in [random(6, [out, inp]), random(7, [inp, out]).transpose()] {
            for c in [random(8, [1, out]), vanishing(out)] {
                let inputs = [random(3, [n, inp]), c];
                let fused = evaluate(&inputs, |t| scaled_linear(t[0].clone(), weight.clone(), factors(&t[1]), true));
                let composed = evaluate(&inputs, |t| linear(t[0].clone(), weight.clone()) * t[1].clone());
                assert_same(&fused, &composed, 1e-3);
            }
        }
    }
}

#[test]
fn a_factor_that_does_not_learn_scales_the_gradient_alone() {
    let weight = random(1, [4, 5]).detach();
    let c = factors(&random(4, [1, 4])).detach();
    let inputs = [random(5, [3, 5])];
    let plain = evaluate(&inputs, |t| scaled_linear(t[0].clone(), weight.clone(), c.clone(), true));
    let expected = evaluate(&inputs, |t| linear(t[0].clone(), weight.clone()) * c.clone().unsqueeze());
    assert_same(&plain, &expected, 1e-4);
}

#[test]
fn gradients_are_the_slopes() {
    let weight = random(23, [6, 5]).detach().cast(DType::F64);
    let weight_for = |t: &[Tensor<2>]| if t[0].is_autodiff() { weight.clone() } else { weight.clone().inner() };
    let inputs = [random(24, [4, 5]), random(27, [1, 6])];
    assert_finite_differences(&inputs, |t| scaled_linear(t[0].clone(), weight_for(t), factors(&t[1]), true));
}

#[test]
fn a_bf16_base_takes_f32_factors() {
    if !computes(DType::BF16) {
        return;
    }
    for [n, inp, out] in SHAPES {
        let (x, w) = (random(8, [n, inp]).cast(DType::BF16), random(9, [out, inp]).cast(DType::BF16));
        let precise = [x.clone(), w.clone()].map(|t| t.cast(DType::F32));
        let inputs = [random(12, [1, out])];
        let plain = |x: &Tensor<2>, w: &Tensor<2>, t: &[Tensor<2>], rounded| {
            let y = scaled_linear(x.clone(), w.clone(), factors(&t[0]), rounded);
            assert_eq!(y.dtype(), if rounded { x.dtype() } else { DType::F32 });
            y.cast(DType::F32)
        };
        for rounded in [true, false] {
            let expected = evaluate(&inputs, |t| plain(&precise[0], &precise[1], t, rounded));
            assert_near(&evaluate(&inputs, |t| plain(&x, &w, t, rounded)), &expected);
        }
    }
}
