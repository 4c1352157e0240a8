use burn::tensor::{DType, Tensor};
use fused_burn::linear;
use fused_burn::testing::{assert_finite_differences, assert_near, assert_same, computes, evaluate, random};

use super::{VeraVectors, vera_linear};

const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [3, 5, 7, 2], [130, 65, 200, 33]];

/// x, low and the two vectors, as rows.
fn inputs([n, inp, out, r]: [usize; 4]) -> [Tensor<2>; 4] {
    [random(1, [n, inp]), random(2, [n, r]), random(3, [1, r]), random(4, [1, out])]
}

fn fused(t: &[Tensor<2>], [weight, b]: &[Tensor<2>; 2], rounded: bool) -> Tensor<2> {
    let row = |t: &Tensor<2>| t.clone().flatten(0, 1);
    let lambda = VeraVectors { d: row(&t[2]), b: row(&t[3]) };
    vera_linear(t[0].clone(), weight.clone(), t[1].clone(), b.clone(), lambda, rounded)
}

#[test]
fn fused_is_composed_with_every_gradient() {
    for shape in SHAPES {
        let [_, inp, out, r] = shape;
        for weight in [random(6, [out, inp]), random(7, [inp, out]).transpose()] {
            let fixed = [weight.detach(), random(8, [out, r]).detach()];
            let found = evaluate(&inputs(shape), |t| fused(t, &fixed, true));
            let expected = evaluate(&inputs(shape), |t| {
                let update = linear(t[1].clone() * t[2].clone(), fixed[1].clone()) * t[3].clone();
                linear(t[0].clone(), fixed[0].clone()) + update
            });
            assert_same(&found, &expected, 1e-3);
        }
    }
}

#[test]
fn gradients_are_the_slopes() {
    let fixed = [random(9, [4, 5]), random(10, [4, 2])].map(|t| t.detach().cast(DType::F64));
    assert_finite_differences(&inputs([3, 5, 4, 2]), |t| {
        let fixed = if t[0].is_autodiff() { fixed.clone() } else { fixed.clone().map(Tensor::inner) };
        fused(t, &fixed, true)
    });
}

#[test]
fn a_bf16_base_takes_an_f32_update() {
    if !computes(DType::BF16) {
        return;
    }
    for shape in SHAPES {
        let [_, inp, out, r] = shape;
        let (weight, b) = (random(11, [out, inp]).detach().cast(DType::BF16), random(12, [out, r]).detach());
        let [x, low, d, lambda_b] = inputs(shape);
        let rounded_x = x.cast(DType::BF16);
        let inputs = [low, d, lambda_b];
        let with = |x: &Tensor<2>, weight: &Tensor<2>, t: &[Tensor<2>], rounded| {
            let all = [x.clone(), t[0].clone(), t[1].clone(), t[2].clone()];
            let y = fused(&all, &[weight.clone(), b.clone()], rounded);
            assert_eq!(y.dtype(), if rounded { x.dtype() } else { DType::F32 });
            y.cast(DType::F32)
        };
        for rounded in [true, false] {
            let found = evaluate(&inputs, |t| with(&rounded_x, &weight, t, rounded));
            let precise = [&rounded_x, &weight].map(|t| t.clone().cast(DType::F32));
            let expected = evaluate(&inputs, |t| with(&precise[0], &precise[1], t, rounded));
            assert_near(&found, &expected);
        }
    }
}
