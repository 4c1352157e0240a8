//! Grouped-query attention to any keys with any mask, `softmax(q·kᵀ/√d)·v`, as a token that is generated attends to the
//! cache. Backward keeps q, k and v, and works the weights out again.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Bool, Shape, Tensor};
use peft_burn::ops::cast;
use peft_burn::ops::flex::{self, all_bf16, all_f32, contiguous, narrowed, values, widened};
use peft_burn::ops::matrix::{Mat, MatMut, Product, compute};
use peft_burn::ops::simd::{exp, max, sum, vectorized};
use rayon::prelude::*;

/// Multiply-adds of all scores below which they stay on one thread.
const PARALLEL_WORK: usize = 1 << 18;

/// Attention of q (`[batch·queries, heads·d]`) to k and v (`[batch, kv_heads, keys, d]`), all of one dtype. `hidden`
/// (`[1 or batch, 1, 1 or queries, 1 or keys]`) hides where it is true.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait MaskedAttentionOps: Backend {
    /// The heads' outputs, `[batch·queries, heads·d]`.
    #[fusion(default)]
    fn masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::<Self>(q, k, v, hidden)
    }

    /// The gradients with respect to q, k and v.
    #[fusion(default)]
    fn masked_attention_backward(
        grad: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed_backward::<Self>(grad, q, k, v, hidden)
    }
}

/// Sizes that follow from q's and k's.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    heads: usize,
    kv_heads: usize,
    keys: usize,
    d: usize,
}

impl Sizes {
    fn new(q: &Shape, k: &Shape) -> Self {
        let [batch, kv_heads, keys, d] = [k[0], k[1], k[2], k[3]];
        Self { batch, queries: q[0] / batch.max(1), heads: q[1] / d.max(1), kv_heads, keys, d }
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }

    /// The heads of a group read their key and value head where it lies: `[batch·queries, heads·d]` becomes
    /// `[batch, kv_heads, group·queries, d]`, so nothing is repeated.
    fn fold<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let x = B::float_reshape(x, Shape::from([self.batch, self.queries, self.heads, self.d]));
        B::float_reshape(B::float_swap_dims(x, 1, 2), self.folded(self.d))
    }

    fn unfold<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let x = B::float_swap_dims(B::float_reshape(x, self.unfolded(self.d)), 1, 2);
        B::float_reshape(x, Shape::from([self.batch * self.queries, self.heads * self.d]))
    }

    fn folded(&self, width: usize) -> Shape {
        Shape::from([self.batch, self.kv_heads, self.group() * self.queries, width])
    }

    fn unfolded(&self, width: usize) -> Shape {
        Shape::from([self.batch, self.heads, self.queries, width])
    }

    /// The weights for folded queries, `[batch, kv_heads, group·queries, keys]`, in f32 or f64.
    fn weights<B: Backend>(&self, q: FloatTensor<B>, k: FloatTensor<B>, hidden: BoolTensor<B>) -> FloatTensor<B> {
        // Before the product: a score rounded to bf16 would be off by much more than a weight may be.
        let precise = super::precise(q.dtype());
        let scores = B::float_matmul(cast::<B>(q, precise), B::float_swap_dims(cast::<B>(k, precise), 2, 3));
        let scores = B::float_reshape(B::float_mul_scalar(scores, self.scale().into()), self.unfolded(self.keys));
        let hidden = B::bool_expand(hidden, self.unfolded(self.keys));
        let scores = B::float_mask_fill(scores, hidden, f32::NEG_INFINITY.into());
        B::float_reshape(B::softmax(scores, 3), self.folded(self.keys))
    }
}

/// In terms of ordinary tensor operations, for every backend.
fn composed<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    hidden: BoolTensor<B>,
) -> FloatTensor<B> {
    let (s, dtype) = (Sizes::new(&q.shape(), &k.shape()), q.dtype());
    let weights = s.weights::<B>(s.fold::<B>(q), k, hidden);
    s.unfold::<B>(B::float_matmul(cast::<B>(weights, dtype), v))
}

/// As [`composed`].
fn composed_backward<B: Backend>(
    grad: FloatTensor<B>,
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    hidden: BoolTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (s, dtype) = (Sizes::new(&q.shape(), &k.shape()), q.dtype());
    let (q, grad) = (s.fold::<B>(q), s.fold::<B>(grad));
    let weights = s.weights::<B>(q.clone(), k.clone(), hidden);
    let dv = B::float_matmul(B::float_swap_dims(cast::<B>(weights.clone(), dtype), 2, 3), grad.clone());
    let dw = cast::<B>(B::float_matmul(grad, B::float_swap_dims(v, 2, 3)), weights.dtype());
    let dots = B::float_sum_dim(B::float_mul(weights.clone(), dw.clone()), 3);
    let ds = B::float_mul_scalar(B::float_mul(weights, B::float_sub(dw, dots)), s.scale().into());
    let ds = cast::<B>(ds, dtype);
    let dk = B::float_matmul(B::float_swap_dims(ds.clone(), 2, 3), q);
    (s.unfold::<B>(B::float_matmul(ds, k)), dk, dv)
}

#[cfg(feature = "cube")]
impl MaskedAttentionOps for burn::backend::Cube {}

impl<B: MaskedAttentionOps, C: CheckpointStrategy> MaskedAttentionOps for Autodiff<B, C> {
    fn masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let out = B::masked_attention(q.clone(), k.clone(), v.clone(), hidden.clone());
        match MaskedAttentionBackward.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([q, k, v], hidden), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[derive(Debug)]
struct MaskedAttentionBackward;

impl<B: MaskedAttentionOps> Backward<B, 3> for MaskedAttentionBackward {
    type State = ([FloatTensor<B>; 3], BoolTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([q, k, v], hidden) = ops.state;
        let (dq, dk, dv) = B::masked_attention_backward(grad, q, k, v, hidden);
        for (node, grad) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// Scores become weights.
#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let largest = max(scores);
    for s in scores.iter_mut() {
        *s = exp(*s - largest);
    }
    let total = sum(
        scores.len(),
        #[inline(always)]
        |i| scores[i],
    );
    let factor = 1.0 / total;
    for s in scores.iter_mut() {
        *s *= factor;
    }
}

impl MaskedAttentionOps for Flex {
    fn masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
    ) -> FloatTensor<Self> {
        let half = all_bf16(&[&q, &k, &v]);
        if !half && !all_f32(&[&q, &k, &v]) {
            return composed::<Self>(q, k, v, hidden);
        }
        let (s, size) = (Sizes::new(&q.shape(), &k.shape()), q.shape());
        let mask = hidden.shape();
        let fits = |i: usize, size: usize| mask[i] == 1 || mask[i] == size;
        assert!(
            mask[1] == 1 && fits(0, s.batch) && fits(2, s.queries) && fits(3, s.keys) && v.shape() == k.shape(),
            "a mask of {mask:?} for {} rows, {} queries and {} keys",
            s.batch,
            s.queries,
            s.keys
        );
        let hidden: Vec<bool> = hidden.into_data().iter::<bool>().collect();
        let hides_any = hidden.contains(&true);
        let hides = |row: usize, query: usize, key: usize| {
            let at = [(mask[0], row), (mask[2], query), (mask[3], key)];
            hidden[at.into_iter().fold(0, |sum, (size, i)| sum * size + i % size)]
        };
        let (q, k, v) = (contiguous(widened(q)), contiguous(k), contiguous(v));
        let (group, rows) = (s.group(), s.group() * s.queries);
        let head = |row: usize, kv: usize| {
            // The queries of the heads that share this key head, head by head.
            let places = (kv * group..(kv + 1) * group)
                .flat_map(|h| (0..s.queries).map(move |t| ((row * s.queries + t) * s.heads + h) * s.d));
            let mut queries = Vec::with_capacity(rows * s.d);
            places.clone().for_each(|at| queries.extend_from_slice(&values(&q)[at..][..s.d]));
            let first = (row * s.kv_heads + kv) * s.keys;
            let [keys, vals] = [&k, &v].map(|t| flex::rows(t, s.d).rows(first, first + s.keys));
            let mut scores = flex::buffer(rows * s.keys);
            let product = Product::of(Mat::new(&queries, rows, s.d), keys.t()).times(s.scale());
            compute(MatMut::new(&mut scores, rows, s.keys), &[product]);
            for (i, scores) in scores.chunks_exact_mut(s.keys.max(1)).enumerate() {
                if hides_any {
                    let hidden = scores.iter_mut().enumerate().filter(|(key, _)| hides(row, i % s.queries, *key));
                    hidden.for_each(|(_, score)| *score = f32::NEG_INFINITY);
                }
                vectorized(
                    #[inline(always)]
                    || softmax(scores),
                );
            }
            let mut mixed = flex::buffer(rows * s.d);
            let product = Product::of(Mat::new(&scores, rows, s.keys), vals);
            compute(MatMut::new(&mut mixed, rows, s.d), &[product]);
            (places.collect::<Vec<_>>(), mixed)
        };
        let all = s.batch * s.kv_heads;
        let parts: Vec<_> = if all * rows * s.keys * s.d < PARALLEL_WORK {
            (0..all).map(|i| head(i / s.kv_heads, i % s.kv_heads)).collect()
        } else {
            (0..all).into_par_iter().with_max_len(1).map(|i| head(i / s.kv_heads, i % s.kv_heads)).collect()
        };
        let mut out = flex::buffer(size.num_elements());
        for (places, mixed) in parts {
            let rows = places.into_iter().zip(mixed.chunks_exact(s.d.max(1)));
            rows.for_each(|(at, mixed)| out[at..][..s.d].copy_from_slice(mixed));
        }
        let out = flex::tensor(out, size);
        if half { narrowed(out) } else { out }
    }
}

/// Attention of q (`[batch·queries, heads·d]`) to k and v (`[batch, kv_heads, keys, d]`): `[batch·queries, heads·d]`.
/// `hidden` (`[1 or batch, 1, 1 or queries, 1 or keys]`) hides where it is true.
pub fn masked_attention(q: Tensor<2>, k: Tensor<4>, v: Tensor<4>, hidden: Tensor<4, Bool>) -> Tensor<2> {
    let (q, k, v, hidden) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), hidden.into_dispatch());
    Tensor::from_dispatch(<Dispatch as MaskedAttentionOps>::masked_attention(q, k, v, hidden))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_same, computes, evaluate, random};
    use burn::tensor::{DType, TensorData, Tolerance};

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
                        let s = Sizes {
                            batch: rows,
                            heads: 1,
                            ..Sizes::new(&Shape::from(q.dims()), &Shape::from(k.dims()))
                        };
                        let all = positions(s).flat_map(|(b, t, _)| (0..keys).map(move |k| hides(b, t, k)));
                        (all.collect::<Vec<bool>>(), [rows, 1, queries, keys])
                    }
                };
                let device = peft_burn::test_device();
                let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, shape), &device);
                for dtype in [DType::F32, DType::BF16, DType::F64].into_iter().filter(|dtype| computes(*dtype)) {
                    let (q, k, v) = (q.clone().cast(dtype), k.clone().cast(dtype), v.clone().cast(dtype));
                    let expected = reference(&q, &k, &v, rows);
                    let tolerance = if dtype == DType::BF16 { 0.03 } else { 1e-5 };
                    let tracked = masked_attention(q.clone(), k.clone(), v.clone(), hidden.clone());
                    let plain = masked_attention(q.inner(), k.inner(), v.inner(), hidden.clone());
                    for found in [tracked, plain] {
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
}
