use burn::backend::Flex;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{LogitRule, composed, cross_entropy, cross_entropy_with};
use crate::base_linear::BaseWeight;
use crate::flex;
use crate::packed::{Format, PackedWeight, Quantization, Weight};
use crate::testing::{assert_finite_differences, assert_same, computes, evaluate, random, test_device};

fn targets(n: usize, vocab: usize, like: &Tensor<2>) -> Tensor<1, Int> {
    let ids: Vec<i32> = (0..n).map(|i| (i * 7919 % vocab) as i32).collect();
    Tensor::from_data(TensorData::new(ids, [n]), &like.device())
}

fn reference(hidden: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
    let [n, _] = hidden.dims();
    let logits = hidden.matmul(weight.transpose());
    log_softmax(logits, 1).gather(1, targets.reshape([n, 1])).sum().neg() * scale
}

#[test]
fn fused_is_the_definition_with_both_gradients() {
    // The last has more rows than a chunk of the CPU's. A vocabulary of 65,536 or more would be wrong on Mesa's software
    // Vulkan, which ends a kernel's loops after 65,535 rounds.
    for (n, width, vocab) in [(1, 1, 1), (3, 5, 7), (70, 16, 300), (170, 4, 60_000)] {
        let inputs = [random(1, [n, width]), random(2, [vocab, width])];
        let t = targets(n, vocab, &inputs[0]);
        let as_matrix = |x: Tensor<1>| x.reshape([1, 1]);
        let fused = evaluate(&inputs, |x| as_matrix(cross_entropy(x[0].clone(), x[1].clone(), t.clone(), 0.3)));
        let expected = evaluate(&inputs, |x| as_matrix(reference(x[0].clone(), x[1].clone(), t.clone(), 0.3)));
        assert_same(&fused, &expected, 1e-4);
    }
}

#[test]
fn composed_is_the_definition_with_both_gradients() {
    if !computes(DType::F64) {
        return;
    }
    let inputs = [random(1, [33, 8]), random(2, [50, 8])];
    let t = targets(33, 50, &inputs[0]);
    let double = evaluate(&inputs, |x| {
        let [hidden, weight] = [0, 1].map(|i| x[i].clone().cast(DType::F64));
        cross_entropy(hidden, weight, t.clone(), 0.3).reshape([1, 1])
    });
    let expected = evaluate(&inputs, |x| reference(x[0].clone(), x[1].clone(), t.clone(), 0.3).reshape([1, 1]));
    assert_same(&double, &expected, 1e-4);
}

#[test]
fn composed_in_chunks_is_composed_at_once() {
    let (n, width, vocab) = (33, 8, 50);
    let [hidden, weight] = [random(1, [n, width]), random(2, [vocab, width])].map(|t| {
        let dims = t.dims();
        flex::tensor(t.into_data().iter::<f32>().collect(), dims)
    });
    let ids: Vec<i64> = (0..n as i64).map(|i| i * 7919 % vocab as i64).collect();
    let ids = flex::FlexTensor::from_data(TensorData::new(ids, [n]));
    let [chunks, whole] = [1, n * vocab].map(|elements| {
        let (loss, hidden_grad, weight_grad) = composed::cross_entropy::<Flex>(
            hidden.clone(),
            BaseWeight::Dense(weight.clone()),
            ids.clone(),
            0.3,
            LogitRule::default(),
            [true; 2],
            elements,
        );
        [loss, hidden_grad.unwrap(), weight_grad.unwrap()].map(|t| t.into_data())
    });
    assert_same(&chunks, &whole, 1e-5);
}

#[test]
fn a_bf16_head_is_the_f32_one_of_the_same_values() {
    if !computes(DType::BF16) {
        return;
    }
    for (n, width, vocab) in [(33, 8, 50), (3, 600, 7001)] {
        let t = |like: &Tensor<2>| targets(n, vocab, like);
        let half = |seed, shape| (random(seed, shape) * 0.1).cast(DType::BF16).cast(DType::F32).detach();
        let inputs = [half(1, [n, width]), half(2, [vocab, width])];
        let single = evaluate(&inputs, |x| cross_entropy(x[0].clone(), x[1].clone(), t(&x[0]), 0.3).reshape([1, 1]));
        let found = evaluate(&inputs, |x| {
            let [hidden, weight] = [0, 1].map(|i| x[i].clone().cast(DType::BF16));
            cross_entropy(hidden, weight, t(&x[0]), 0.3).reshape([1, 1])
        });
        found[0].assert_approx_eq::<f32>(&single[0], burn::tensor::Tolerance::rel_abs(1e-5, 1e-5));
        // The gradients are rounded to bf16, and nothing else is.
        assert_same(&found, &single, 0.005);
    }
}

#[test]
fn gradients_are_the_slopes() {
    let inputs = [random(5, [4, 3]), random(6, [5, 3])];
    assert_finite_differences(&inputs, |x| {
        cross_entropy(x[0].clone(), x[1].clone(), targets(4, 5, &x[0]), 0.3).reshape([1, 1])
    });
}

#[test]
fn one_gradient_alone_and_none() {
    let [hidden, weight] = [random(1, [5, 8]), random(2, [9, 8])];
    let t = targets(5, 9, &hidden);
    let loss = cross_entropy(hidden.clone(), weight.clone(), t.clone(), 1.0);
    assert!(!loss.is_tracked());
    let tracked = hidden.require_grad();
    let grads = cross_entropy(tracked.clone(), weight, t, 1.0).backward();
    assert!(tracked.grad(&grads).is_some());
}

#[test]
fn logits_that_are_divided_and_capped() {
    for rule in [
        LogitRule { divisor: 1.0, softcap: Some(1.5) },
        LogitRule { divisor: 3.0, softcap: None },
        LogitRule { divisor: 0.5, softcap: Some(4.0) },
    ] {
        let inputs = [random(1, [70, 16]), random(2, [300, 16])];
        let t = targets(70, 300, &inputs[0]);
        let definition = evaluate(&inputs, |x| {
            let logits = rule.apply(x[0].clone().matmul(x[1].clone().transpose()));
            (log_softmax(logits, 1).gather(1, t.clone().reshape([70, 1])).sum().neg() * 0.3).reshape([1, 1])
        });
        let loss =
            |x: &[Tensor<2>]| cross_entropy_with(x[0].clone(), x[1].clone(), t.clone(), 0.3, rule).reshape([1, 1]);
        assert_same(&evaluate(&inputs, loss), &definition, 1e-4);
        if computes(DType::F64) {
            // The CPU takes the composed form for dtypes other than f32.
            let double = |x: &[Tensor<2>]| loss(&[0, 1].map(|i| x[i].clone().cast(DType::F64)));
            assert_same(&evaluate(&inputs, double), &definition, 1e-4);
        }
        let small = [random(5, [4, 3]), random(6, [5, 3])];
        assert_finite_differences(&small, |x| {
            cross_entropy_with(x[0].clone(), x[1].clone(), targets(4, 5, &x[0]), 0.3, rule).reshape([1, 1])
        });
    }
}

#[test]
fn a_packed_head_is_the_decoded_one() {
    let quantization = Quantization { double_quantization: true, ..Quantization::new(Format::Nf4) };
    for dtype in [DType::F32, DType::BF16] {
        if !computes(dtype) {
            continue;
        }
        let (weight, inputs) = (random(2, [70, 40]).inner(), [random(1, [9, 40]).cast(dtype)]);
        let packed = PackedWeight::quantize(weight, quantization, dtype, &test_device());
        let packed = packed.unwrap();
        let targets = Tensor::<1, Int>::from_data(TensorData::from([3, 0, 69, 5, 5, 8, 21, 40, 1]), &test_device());
        let loss = |weight: Weight| {
            evaluate(&inputs, |t| cross_entropy(t[0].clone(), weight.clone(), targets.clone(), 0.5).unsqueeze())
        };
        assert_same(&loss(packed.clone().into()), &loss(packed.dense().into()), 1e-5);
    }
}
