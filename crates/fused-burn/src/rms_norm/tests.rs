use burn::tensor::{DType, Tensor, Tolerance};

use super::{offset_rms_norm, rms_norm};
use crate::testing::{assert_finite_differences, assert_same, computes, evaluate, random};

fn composed(x: Tensor<2>, gain: Tensor<2>) -> Tensor<2> {
    let inverse = (x.clone() * x.clone()).mean_dim(1).add_scalar(1e-5).sqrt().recip();
    x * inverse * gain
}

#[test]
fn fused_is_composed_with_every_gradient() {
    for (n, width) in [(1, 1), (3, 5), (70, 33), (129, 576)] {
        let inputs = [random(1, [n, width]), random(2, [1, width])];
        let fused = evaluate(&inputs, |t| rms_norm(t[0].clone(), t[1].clone().reshape([width]), 1e-5));
        assert_same(&fused, &evaluate(&inputs, |t| composed(t[0].clone(), t[1].clone())), 1e-4);
    }
}

#[test]
fn gradients_are_the_slopes() {
    let inputs = [random(5, [3, 4]), random(6, [1, 4])];
    assert_finite_differences(&inputs, |t| rms_norm(t[0].clone(), t[1].clone().reshape([4]), 1e-5));
}

#[test]
fn half_precision_is_computed_in_f32() {
    if !computes(DType::BF16) {
        return;
    }
    let (x, gain) = (random(3, [4, 64]) * 100.0, random(4, [1, 64]));
    let expected = composed(x.clone(), gain.clone()).into_data();
    let half = rms_norm(x.cast(DType::BF16), gain.reshape([64]).cast(DType::BF16), 1e-5);
    assert_eq!(half.dtype(), DType::BF16);
    half.cast(DType::F32).into_data().assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(0.02, 0.02));
}

#[test]
fn an_offset_is_added_to_the_gain() {
    for (n, width) in [(3, 5), (70, 33)] {
        let inputs = [random(1, [n, width]), random(2, [1, width])];
        let fused = evaluate(&inputs, |t| offset_rms_norm(t[0].clone(), t[1].clone().reshape([width]), 1e-5, 1.0));
        assert_same(&fused, &evaluate(&inputs, |t| composed(t[0].clone(), t[1].clone().add_scalar(1.0))), 1e-4);
    }
    let inputs = [random(5, [3, 4]), random(6, [1, 4])];
    assert_finite_differences(&inputs, |t| offset_rms_norm(t[0].clone(), t[1].clone().reshape([4]), 1e-5, 1.0));
    if computes(DType::BF16) {
        // 1 + g is not rounded: of this g nothing would be left.
        let (x, gain) = (random(3, [4, 64]), Tensor::full([64], 0.001, (&crate::testing::test_device(), DType::BF16)));
        let half = offset_rms_norm(x.clone().cast(DType::BF16).inner(), gain, 1e-5, 1.0).cast(DType::F32);
        let x = x.inner().cast(DType::BF16).cast(DType::F32);
        let exact = rms_norm(x, Tensor::full([64], 1.001, (&crate::testing::test_device(), DType::F32)), 1e-5);
        let rounded = exact.cast(DType::BF16).cast(DType::F32).into_data();
        half.into_data().assert_approx_eq::<f32>(&rounded, Tolerance::rel_abs(0.0001, 0.0001));
    }
}
