use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor, Tolerance};

use super::{RopeOps, partial_rope, rope};
use crate::testing::{assert_finite_differences, assert_same, computes, evaluate, random};

/// Transformers' form: `x·cos + rotate_half(x)·sin`.
fn rotate_half(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<2> {
    let ([n, width], [m, half]) = (x.dims(), cos.dims());
    let d = 2 * half;
    let x = x.reshape([n / m, m, width / d, d]);
    let (first, second) = (x.clone().slice_dim(3, 0..half), x.clone().slice_dim(3, half..d));
    let turned = Tensor::cat(vec![second.neg(), first], 3);
    let twice = |t: Tensor<2>| Tensor::cat(vec![t.clone(), t], 1).reshape([1, m, 1, d]);
    (x * twice(cos) + turned * twice(sin)).reshape([n, width])
}

fn tables(m: usize, half: usize) -> (Tensor<2>, Tensor<2>) {
    let angles = random(7, [m, half]).detach() * 3.0;
    (angles.clone().cos(), angles.sin())
}

#[test]
fn fused_is_composed_with_its_gradient() {
    for (repeats, m, heads, half) in [(1, 1, 1, 1), (2, 3, 5, 4), (4, 33, 9, 32)] {
        let (cos, sin) = tables(m, half);
        let inputs = [random(1, [repeats * m, heads * half * 2])];
        let fused = evaluate(&inputs, |t| rope(t[0].clone(), cos.clone(), sin.clone()));
        assert_same(&fused, &evaluate(&inputs, |t| rotate_half(t[0].clone(), cos.clone(), sin.clone())), 1e-5);
    }
}

#[test]
fn an_input_that_is_used_elsewhere_keeps_its_values() {
    let (cos, sin) = tables(3, 2);
    let x = random(1, [3, 4]);
    let before = x.to_data();
    let turned = rope(x.clone(), cos, sin).into_data();
    assert_eq!(x.into_data(), before);
    assert_ne!(turned, before);
}

#[test]
fn gradients_are_the_slopes() {
    let (cos, sin) = tables(3, 2);
    assert_finite_differences(&[random(5, [6, 8])], |t| {
        let [cos, sin] = [&cos, &sin].map(|table| table.clone().inner().cast(DType::F64));
        let [cos, sin] = if t[0].is_autodiff() { [cos, sin].map(Tensor::from_inner) } else { [cos, sin] };
        rope(t[0].clone(), cos, sin)
    });
}

#[test]
fn the_composed_form_turns_back_too() {
    if !computes(DType::F64) {
        return;
    }
    let (cos, sin) = tables(3, 2);
    let x = random(1, [6, 8]);
    let half = |t: Tensor<2>| t.cast(DType::F64).into_dispatch();
    let turned = <Dispatch as RopeOps>::rope(half(x.clone()), half(cos.clone()), half(sin.clone()), 4, false);
    let back = <Dispatch as RopeOps>::rope(turned.clone(), half(cos.clone()), half(sin.clone()), 4, true);
    let single = |t| Tensor::<2>::from_dispatch(t).cast(DType::F32).into_data();
    single(back).assert_approx_eq::<f32>(&x.to_data(), Tolerance::absolute(1e-6));
    single(turned).assert_approx_eq::<f32>(&rope(x, cos, sin).into_data(), Tolerance::absolute(1e-5));
}

#[test]
fn a_part_of_each_head_turns_and_the_rest_stays() {
    for (repeats, m, heads, half, width) in [(2, 3, 5, 2, 7), (1, 9, 2, 4, 12)] {
        let (cos, sin) = tables(m, half);
        let n = repeats * m;
        let inputs = [random(1, [n, heads * width])];
        let fused = evaluate(&inputs, |t| partial_rope(t[0].clone(), cos.clone(), sin.clone(), width));
        let expected = evaluate(&inputs, |t| {
            let x = t[0].clone().reshape([n, heads, width]);
            let (first, rest) = (x.clone().slice_dim(2, 0..2 * half), x.slice_dim(2, 2 * half..width));
            let first = rotate_half(first.reshape([n, heads * 2 * half]), cos.clone(), sin.clone());
            Tensor::cat(vec![first.reshape([n, heads, 2 * half]), rest], 2).reshape([n, heads * width])
        });
        assert_same(&fused, &expected, 1e-5);
        if computes(DType::F64) {
            let double = |t: &Tensor<2>| t.clone().cast(DType::F64);
            let found = partial_rope(double(&inputs[0]), double(&cos), double(&sin), width);
            assert_same(&[found.cast(DType::F32).into_data()], &expected[..1], 1e-5);
        }
    }
}
