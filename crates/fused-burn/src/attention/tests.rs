use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Tensor, TensorData, Tolerance};

use super::{AttentionShape, causal_attention};
use crate::Scores;
use crate::testing::{assert_finite_differences, assert_same, computes, evaluate, on_cpu, random};

/// By the definition, one mask and repeated heads.
fn reference(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, shape: &AttentionShape) -> Tensor<2> {
    let &AttentionShape { batch, seq, heads, kv_heads, head_dim, .. } = shape;
    let split = |t: Tensor<2>, heads: usize| t.reshape([batch, seq, heads, head_dim]).swap_dims(1, 2);
    let repeat = |t: Tensor<2>| {
        let t = split(t, kv_heads).reshape([batch, kv_heads, 1, seq * head_dim]);
        t.repeat_dim(2, heads / kv_heads).reshape([batch, heads, seq, head_dim])
    };
    let mut hidden = Vec::new();
    for (row, query) in (0..batch).flat_map(|b| (0..seq).map(move |t| (b, t))) {
        hidden.extend((0..seq).map(|key| !shape.sees(row, query).contains(&key)));
    }
    let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [batch, 1, seq, seq]), &q.device());
    let scores = split(q, heads).matmul(repeat(k).swap_dims(2, 3));
    let scores = match shape.scores.scale {
        None => scores / (head_dim as f64).sqrt(),
        Some(scale) => scores * scale,
    };
    let scores = shape.scores.softcap.map_or(scores.clone(), |cap| (scores / cap).tanh() * cap);
    let scores = scores.mask_fill(hidden.expand([batch, heads, seq, seq]), f32::NEG_INFINITY);
    softmax(scores, 3).matmul(repeat(v)).swap_dims(1, 2).reshape([batch * seq, heads * head_dim])
}

fn shapes() -> Vec<AttentionShape> {
    let shape = |batch, seq, heads, kv_heads, head_dim| {
        let scores = Scores::default();
        AttentionShape { batch, seq, heads, kv_heads, head_dim, starts: None, window: None, scores }
    };
    let windowed = |shape, window| AttentionShape { window: Some(window), ..shape };
    let capped = |shape, scale, cap| AttentionShape { scores: Scores { scale, softcap: Some(cap) }, ..shape };
    let packed = |shape: AttentionShape, lengths: &[usize]| {
        let mut starts = Vec::new();
        for &length in lengths {
            let start = starts.len() % shape.seq;
            starts.extend(vec![start; length]);
        }
        assert_eq!(starts.len(), shape.batch * shape.seq);
        AttentionShape { starts: Some(Arc::new(starts.into())), ..shape }
    };
    vec![
        shape(1, 1, 1, 1, 1),
        shape(2, 5, 4, 2, 6),
        shape(1, 130, 6, 2, 8),
        shape(3, 65, 3, 3, 16),
        shape(1, 700, 2, 1, 4),
        packed(shape(2, 10, 4, 2, 6), &[3, 7, 1, 1, 8]),
        packed(shape(1, 200, 3, 1, 8), &[70, 1, 100, 29]),
        windowed(shape(2, 5, 4, 2, 6), 1),
        windowed(shape(1, 600, 2, 1, 4), 37),
        windowed(shape(1, 1300, 1, 1, 4), 500),
        windowed(packed(shape(1, 200, 3, 1, 8), &[70, 1, 100, 29]), 33),
        capped(shape(2, 9, 4, 2, 6), None, 0.7),
        capped(windowed(shape(1, 150, 6, 2, 8), 20), Some(0.3), 1.5),
        // Heads that are no multiple of a tile, and the widest.
        shape(2, 35, 4, 2, 40),
        packed(shape(1, 40, 2, 1, 256), &[33, 7]),
    ]
}

fn inputs(shape: &AttentionShape) -> [Tensor<2>; 3] {
    let n = shape.batch * shape.seq;
    let width = |heads: usize| [n, heads * shape.head_dim];
    [random(1, width(shape.heads)), random(2, width(shape.kv_heads)), random(3, width(shape.kv_heads))]
}

#[test]
fn fused_is_the_definition_with_every_gradient() {
    for shape in shapes() {
        let inputs = inputs(&shape);
        let fused = evaluate(&inputs, |t| causal_attention(t[0].clone(), t[1].clone(), t[2].clone(), shape.clone()));
        let expected = evaluate(&on_cpu(&inputs), |t| reference(t[0].clone(), t[1].clone(), t[2].clone(), &shape));
        assert_same(&fused, &expected, 1e-4);
    }
}

#[test]
fn composed_is_the_definition_with_every_gradient() {
    if !computes(DType::F64) {
        return;
    }
    for shape in shapes() {
        let inputs = inputs(&shape);
        // The CPU takes the composed form for dtypes other than f32.
        let double = evaluate(&inputs, |t| {
            let [q, k, v] = [0, 1, 2].map(|i| t[i].clone().cast(DType::F64));
            causal_attention(q, k, v, shape.clone()).cast(DType::F32)
        });
        let expected = evaluate(&inputs, |t| reference(t[0].clone(), t[1].clone(), t[2].clone(), &shape));
        assert_same(&double, &expected, 1e-4);
    }
}

#[test]
fn gradients_are_the_slopes() {
    for shape in [1, 5, 7, 11].map(|i| shapes()[i].clone()) {
        assert_finite_differences(&inputs(&shape), |t| {
            causal_attention(t[0].clone(), t[1].clone(), t[2].clone(), shape.clone())
        });
    }
}

#[test]
fn half_precision() {
    if !computes(DType::BF16) {
        return;
    }
    let shape = shapes()[3].clone();
    let [q, k, v] = inputs(&shape);
    let expected = reference(q.clone(), k.clone(), v.clone(), &shape).into_data();
    let [q, k, v] = [q, k, v].map(|t| t.cast(DType::BF16));
    let half = causal_attention(q, k, v, shape).cast(DType::F32).into_data();
    half.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(0.05, 0.05));
}
