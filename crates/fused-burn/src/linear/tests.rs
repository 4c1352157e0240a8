use burn::tensor::{DType, Tolerance};

use super::linear;
use crate::testing::{assert_finite_differences, assert_same, computes, evaluate, random};

#[test]
fn linear_is_the_composed_form_with_both_gradients() {
    for (n, inp, out) in [(1, 1, 1), (3, 5, 7), (130, 65, 200), (257, 128, 48)] {
        let inputs = [random(1, [n, inp]), random(2, [out, inp])];
        let fused = evaluate(&inputs, |t| linear(t[0].clone(), t[1].clone()));
        let composed = evaluate(&inputs, |t| t[0].clone().matmul(t[1].clone().transpose()));
        assert_same(&fused, &composed, 1e-3);
    }
}

#[test]
fn gradients_are_the_slopes() {
    let inputs = [random(21, [4, 5]), random(22, [3, 5])];
    assert_finite_differences(&inputs, |t| linear(t[0].clone(), t[1].clone()));
}

#[test]
fn other_dtypes_and_layouts_work_too() {
    let (x, w) = (random(12, [6, 8]), random(13, [8, 5]));
    let expected = x.clone().matmul(w.clone()).into_data();
    let found = linear(x.clone().transpose().transpose(), w.clone().transpose()).into_data();
    found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    if !computes(DType::BF16) {
        return;
    }
    let half = linear(x.cast(DType::BF16), w.transpose().cast(DType::BF16)).cast(DType::F32).into_data();
    half.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(0.05, 0.1));
}
