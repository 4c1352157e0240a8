use burn::tensor::{DType, Tensor, TensorData};
use fused_burn::testing::{
    assert_finite_differences, assert_near, assert_same, computes, evaluate, random, test_device,
};

use super::dora_linear;
use crate::methods::lora::op::lora_linear;

const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [3, 5, 7, 2], [130, 65, 200, 16]];

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
fn dora_is_the_composed_form_with_every_gradient() {
    for [n, inp, out, r] in SHAPES {
        for weight in [random(6, [out, inp]), random(7, [inp, out]).transpose()] {
            for c in [random(8, [1, out]), vanishing(out)] {
                let inputs = [random(3, [n, inp]), random(4, [r, inp]), random(5, [out, r]), c];
                let fused = evaluate(&inputs, |t| {
                    let factors = factors(&t[3]);
                    dora_linear(t[0].clone(), weight.clone(), [t[1].clone(), t[2].clone()], factors, 0.5, true)
                });
                let composed = evaluate(&inputs, |t| {
                    let [x, a, b, c] = [0, 1, 2, 3].map(|i| t[i].clone());
                    lora_linear(x, weight.clone(), a, b, 0.5, true) * c
                });
                assert_same(&fused, &composed, 1e-3);
            }
        }
    }
}

#[test]
fn a_factor_that_does_not_learn_scales_the_gradient_alone() {
    let [weight, a, b] = [random(1, [4, 5]), random(2, [2, 5]), random(3, [4, 2])].map(Tensor::detach);
    let c = factors(&random(4, [1, 4])).detach();
    let inputs = [random(5, [3, 5])];
    let low = || [a.clone(), b.clone()];
    let dora = evaluate(&inputs, |t| dora_linear(t[0].clone(), weight.clone(), low(), c.clone(), 0.5, true));
    let expected = evaluate(&inputs, |t| {
        lora_linear(t[0].clone(), weight.clone(), a.clone(), b.clone(), 0.5, true) * c.clone().unsqueeze()
    });
    assert_same(&dora, &expected, 1e-4);
}

#[test]
fn gradients_are_the_slopes() {
    let weight = random(23, [6, 5]).detach().cast(DType::F64);
    let weight_for = |t: &[Tensor<2>]| if t[0].is_autodiff() { weight.clone() } else { weight.clone().inner() };
    let inputs = [random(24, [4, 5]), random(25, [2, 5]), random(26, [6, 2]), random(27, [1, 6])];
    assert_finite_differences(&inputs, |t| {
        let low = [t[1].clone(), t[2].clone()];
        dora_linear(t[0].clone(), weight_for(t), low, factors(&t[3]), 0.5, true)
    });
}

#[test]
fn a_bf16_base_takes_f32_factors() {
    if !computes(DType::BF16) {
        return;
    }
    for [n, inp, out, r] in SHAPES {
        let (x, w) = (random(8, [n, inp]).cast(DType::BF16), random(9, [out, inp]).cast(DType::BF16));
        let precise = [x.clone(), w.clone()].map(|t| t.cast(DType::F32));
        let inputs = [random(10, [r, inp]), random(11, [out, r]), random(12, [1, out])];
        let dora = |x: &Tensor<2>, w: &Tensor<2>, t: &[Tensor<2>], rounded| {
            let y = dora_linear(x.clone(), w.clone(), [t[0].clone(), t[1].clone()], factors(&t[2]), 0.5, rounded);
            assert_eq!(y.dtype(), if rounded { x.dtype() } else { DType::F32 });
            y.cast(DType::F32)
        };
        for rounded in [true, false] {
            let expected = evaluate(&inputs, |t| dora(&precise[0], &precise[1], t, rounded));
            assert_near(&evaluate(&inputs, |t| dora(&x, &w, t, rounded)), &expected);
        }
    }
}
