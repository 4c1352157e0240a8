use burn::tensor::{Bool, DType, Shape, Tensor, TensorData, Tolerance};

use super::sizes::Sizes;
use super::{masked_attention, masked_attention_with};
use crate::Scores;
use crate::testing::{assert_finite_differences, assert_same, computes, evaluate, random, test_device};

/// Whether the query sees the key, by a rule with no pattern; the first key is seen by all.
fn hides(row: usize, query: usize, key: usize) -> bool {
    key != 0 && (row + 3 * query + 5 * key).is_multiple_of(4)
}

/// By the definition, one score after another.
fn reference(q: &Tensor<2>, k: &Tensor<4>, v: &Tensor<4>, masked: Option<usize>) -> TensorData {
    let s = Sizes::new(&Shape::from(q.dims()), &Shape::from(k.dims()));
    let [q, k, v] = [q.clone().into_data(), k.clone().into_data(), v.clone().into_data()]
        .map(|data| data.iter::<f64>().collect::<Vec<_>>());
    let mut out = Vec::with_capacity(q.len());
    for (row, query, head) in positions(s) {
        let at = ((row * s.queries + query) * s.heads + head) * s.d;
        let kv = |key: usize| ((row * s.kv_heads + head / s.group()) * s.keys + key) * s.d;
        let seen = (0..s.keys).filter(|&key| !masked.is_some_and(|rows| hides(row % rows, query, key)));
        let weights: Vec<(usize, f64)> = seen
            .map(|key| {
                let dot: f64 = (0..s.d).map(|i| q[at + i] * k[kv(key) + i]).sum();
                (key, (dot / (s.d as f64).sqrt()).exp())
            })
            .collect();
        let total: f64 = weights.iter().map(|(_, w)| w).sum();
        out.extend((0..s.d).map(|i| weights.iter().map(|(key, w)| w / total * v[kv(*key) + i]).sum::<f64>()));
    }
    TensorData::new(out, [s.batch * s.queries, s.heads * s.d])
}

fn positions(s: Sizes) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..s.batch).flat_map(move |b| (0..s.queries).flat_map(move |t| (0..s.heads).map(move |h| (b, t, h))))
}

#[test]
fn a_query_that_sees_nothing_gets_nothing_and_hands_on_nothing() {
    let device = test_device();
    let hidden = Tensor::<4, Bool>::from_data(TensorData::new(vec![true, true, false, false], [1, 1, 2, 2]), &device);
    for dtype in [DType::F32, DType::F64] {
        let [q, v] = [(1, [2, 4]), (2, [4, 2])].map(|(seed, shape)| random(seed, shape));
        let (q, k, v) =
            (q.cast(dtype), v.clone().reshape([1, 1, 2, 4]).cast(dtype), v.reshape([1, 1, 2, 4]).cast(dtype));
        let out = masked_attention(q, k, v, hidden.clone()).into_data().iter::<f64>().collect::<Vec<_>>();
        assert!(out[..4].iter().all(|&x| x == 0.0) && out[4..].iter().all(|&x| x.is_finite() && x != 0.0), "{out:?}");
    }
}

#[test]
fn fused_and_composed_are_the_definition() {
    // One query of one row; several of each, with groups; enough for all threads.
    for (batch, queries, heads, kv_heads, keys, d) in
        [(1, 1, 3, 1, 5, 4), (2, 3, 4, 2, 7, 6), (3, 1, 4, 4, 33, 16), (2, 19, 6, 2, 150, 32)]
    {
        let q = random(1, [batch * queries, heads * d]);
        let [k, v] = [2, 3].map(|seed| random(seed, [batch, kv_heads, keys, d]));
        for rows in [None, Some(1), Some(batch)] {
            let (hidden, shape) = match rows {
                None => (vec![false], [1; 4]),
                Some(rows) => {
                    let s =
                        Sizes { batch: rows, heads: 1, ..Sizes::new(&Shape::from(q.dims()), &Shape::from(k.dims())) };
                    let all = positions(s).flat_map(|(b, t, _)| (0..keys).map(move |k| hides(b, t, k)));
                    (all.collect::<Vec<bool>>(), [rows, 1, queries, keys])
                }
            };
            let device = test_device();
            let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, shape), &device);
            for dtype in [DType::F32, DType::BF16, DType::F64].into_iter().filter(|dtype| computes(*dtype)) {
                let (q, k, v) = (q.clone().cast(dtype), k.clone().cast(dtype), v.clone().cast(dtype));
                let expected = reference(&q, &k, &v, rows);
                let tolerance = if dtype == DType::BF16 { 0.03 } else { 1e-5 };
                let tracked = masked_attention(q.clone(), k.clone(), v.clone(), hidden.clone());
                let plain = masked_attention(q.clone().inner(), k.clone().inner(), v.clone().inner(), hidden.clone());
                // The first keys of a longer cache.
                let first = |t: Tensor<4>| Tensor::cat(vec![t.clone(), t.mul_scalar(7.0)], 2).narrow(2, 0, keys);
                let cached = masked_attention(
                    q.clone().inner(),
                    first(k.clone().inner()),
                    first(v.clone().inner()),
                    hidden.clone(),
                );
                for found in [tracked, plain, cached] {
                    let found = found.into_data().convert::<f64>();
                    found.assert_approx_eq::<f64>(&expected, Tolerance::rel_abs(tolerance, tolerance));
                }
            }
        }
    }
}

/// Attention of one flat tensor each for q, k and v, as the tests of gradients take them.
fn flat(t: &[Tensor<2>], [batch, queries, heads, kv_heads, keys, d]: [usize; 6], fused: bool) -> Tensor<2> {
    let q = t[0].clone().reshape([batch * queries, heads * d]);
    let [k, v] = [1, 2].map(|i| t[i].clone().reshape([batch, kv_heads, keys, d]));
    let hidden = (0..queries).flat_map(|t| (0..keys).map(move |k| hides(0, t, k))).collect::<Vec<bool>>();
    let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [1, 1, queries, keys]), &q.device().inner());
    if fused {
        return masked_attention(q, k, v, hidden);
    }
    let repeat = |t: Tensor<4>| {
        let t = t.reshape([batch, kv_heads, 1, keys * d]).repeat_dim(2, heads / kv_heads);
        t.reshape([batch, heads, keys, d])
    };
    let q = q.reshape([batch, queries, heads, d]).swap_dims(1, 2);
    let scores = q.matmul(repeat(k).swap_dims(2, 3)) / (d as f64).sqrt();
    let scores = scores.mask_fill(hidden.expand([batch, heads, queries, keys]), f32::NEG_INFINITY);
    let out = burn::tensor::activation::softmax(scores, 3).matmul(repeat(v));
    out.swap_dims(1, 2).reshape([batch * queries, heads * d])
}

#[test]
fn gradients_are_those_of_the_definition() {
    let sizes = [2, 3, 4, 2, 7, 6];
    let inputs = [random(4, [6, 24]), random(5, [28, 6]), random(6, [28, 6])];
    let fused = evaluate(&inputs, |t| flat(t, sizes, true));
    assert_same(&fused, &evaluate(&inputs, |t| flat(t, sizes, false)), 1e-4);
    let small = [random(7, [2, 4]), random(8, [3, 2]), random(9, [3, 2])];
    assert_finite_differences(&small, |t| flat(t, [1, 2, 2, 1, 3, 2], true));
}

#[test]
fn scores_that_are_scaled_and_capped() {
    let rule = Scores { scale: Some(0.6), softcap: Some(0.9) };
    let [batch, queries, heads, kv_heads, keys, d] = [2, 3, 4, 2, 7, 6];
    let inputs = [random(4, [6, 24]), random(5, [28, 6]), random(6, [28, 6])];
    let mask = |like: &Tensor<2>| {
        let hidden = (0..queries).flat_map(|t| (0..keys).map(move |k| hides(0, t, k))).collect::<Vec<bool>>();
        Tensor::<4, Bool>::from_data(TensorData::new(hidden, [1, 1, queries, keys]), &like.device())
    };
    let parts = |t: &[Tensor<2>]| {
        let [k, v] = [1, 2].map(|i| t[i].clone().reshape([batch, kv_heads, keys, d]));
        (t[0].clone(), k, v)
    };
    let found = evaluate(&inputs, |t| {
        let (q, k, v) = parts(t);
        masked_attention_with(q, k, v, mask(&t[0]), rule)
    });
    let expected = evaluate(&inputs, |t| {
        let (q, k, v) = parts(t);
        let repeat = |t: Tensor<4>| {
            let t = t.reshape([batch, kv_heads, 1, keys * d]).repeat_dim(2, heads / kv_heads);
            t.reshape([batch, heads, keys, d])
        };
        let q = q.reshape([batch, queries, heads, d]).swap_dims(1, 2);
        let scores = (q.matmul(repeat(k).swap_dims(2, 3)) * (0.6 / 0.9)).tanh() * 0.9;
        let scores = scores.mask_fill(mask(&t[0]).expand([batch, heads, queries, keys]), f32::NEG_INFINITY);
        let out = burn::tensor::activation::softmax(scores, 3).matmul(repeat(v));
        out.swap_dims(1, 2).reshape([batch * queries, heads * d])
    });
    assert_same(&found, &expected, 1e-4);
}
