use burn::tensor::DType;
use fused_burn::testing::{assert_finite_differences, assert_near, assert_same, computes, evaluate, random};

use super::lora_linear;

#[test]
fn lora_linear_is_the_composed_form_with_every_gradient() {
    for (n, inp, out, r) in [(1, 1, 1, 1), (3, 5, 7, 2), (130, 65, 200, 16), (257, 128, 48, 8)] {
        let inputs = [random(3, [n, inp]), random(4, [r, inp]), random(5, [out, r])];
        // As Hugging Face stores it, and a view of Burn's `[in, out]`.
        for weight in [random(6, [out, inp]), random(7, [inp, out]).transpose()] {
            let fused =
                evaluate(&inputs, |t| lora_linear(t[0].clone(), weight.clone(), t[1].clone(), t[2].clone(), 0.5, true));
            let composed = evaluate(&inputs, |t| {
                let low = t[0].clone().matmul(t[1].clone().transpose());
                t[0].clone().matmul(weight.clone().transpose()) + low.matmul(t[2].clone().transpose()) * 0.5
            });
            assert_same(&fused, &composed, 1e-3);
        }
    }
}

#[test]
fn gradients_are_the_slopes() {
    let weight = random(23, [6, 5]).detach().cast(DType::F64);
    let inputs = [random(24, [4, 5]), random(25, [2, 5]), random(26, [6, 2])];
    assert_finite_differences(&inputs, |t| {
        let weight = if t[0].is_autodiff() { weight.clone() } else { weight.clone().inner() };
        lora_linear(t[0].clone(), weight, t[1].clone(), t[2].clone(), 0.5, true)
    });
}

#[test]
fn a_bf16_base_takes_f32_adapters_fused_and_composed() {
    if !computes(DType::BF16) {
        return;
    }
    for (n, inp, out, r) in [(3, 5, 7, 2), (130, 65, 200, 16)] {
        let (x, w) = (random(8, [n, inp]).cast(DType::BF16), random(9, [out, inp]).cast(DType::BF16));
        let inputs = [random(10, [r, inp]), random(11, [out, r])];
        let precise = [x.clone(), w.clone()].map(|t| t.cast(DType::F32));
        let expected = evaluate(&inputs, |t| {
            lora_linear(precise[0].clone(), precise[1].clone(), t[0].clone(), t[1].clone(), 0.5, true)
        });
        // The same values, as Hugging Face stores them and as a view of `[in, out]`.
        for w in [w.clone(), w.clone().transpose().reshape([inp, out]).transpose()] {
            let found = evaluate(&inputs, |t| {
                lora_linear(x.clone(), w.clone(), t[0].clone(), t[1].clone(), 0.5, true).cast(DType::F32)
            });
            assert_near(&found, &expected);
            let unrounded = evaluate(&inputs, |t| {
                let y = lora_linear(x.clone(), w.clone(), t[0].clone(), t[1].clone(), 0.5, false);
                assert_eq!(y.dtype(), DType::F32);
                y
            });
            assert_near(&unrounded, &found);
        }
        // f64 goes the composed way.
        if !computes(DType::F64) {
            continue;
        }
        let composed = evaluate(&inputs, |t| {
            let [a, b] = [0, 1].map(|i| t[i].clone().cast(DType::F64));
            lora_linear(x.clone(), w.clone(), a, b, 0.5, true).cast(DType::F32)
        });
        assert_near(&composed, &expected);
    }
}
