//! Causal grouped-query attention, `softmax(q·kᵀ/√d)·v`. Backward keeps q, k, v, the output and a number for each query and
//! head, and works the weights out again, so that memory grows with the sequence and not with its square; no mask is kept,
//! and keys are not repeated for the heads of a group.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use peft_burn::ops::flex::{self, all_bf16, all_f32, contiguous, narrowed, values, widened};

mod composed;
mod cpu;

/// Sizes of an attention, and where its texts begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Rows of tokens.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// For packed rows: the first column of the text that each column belongs to, `[batch·seq]`. `None`: 0 everywhere.
    pub starts: Option<Arc<Vec<usize>>>,
}

impl AttentionShape {
    /// The columns that the query at `column` of row `row` sees.
    fn sees(&self, row: usize, column: usize) -> Range<usize> {
        self.starts.as_ref().map_or(0, |s| s[row * self.seq + column])..column + 1
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Causal attention of q (`[batch·seq, heads·d]`) to k and v (`[batch·seq, kv_heads·d]`), all of one dtype.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait AttentionOps: Backend {
    /// The heads' outputs, `[batch·seq, heads·d]`, and the logarithm of each query's sum of the exponentials of its scores,
    /// `[batch·seq, heads]` in f32 at least, which backward reads.
    #[fusion(default)]
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::forward::<Self>(q, k, v, &shape)
    }

    /// The gradients with respect to q, k and v, for what [`causal_attention`](Self::causal_attention) returned.
    #[fusion(default)]
    fn causal_attention_backward(
        grad: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::backward::<Self>(grad, [q, k, v, out, logs], &shape)
    }
}

#[cfg(feature = "cube")]
impl AttentionOps for burn::backend::Cube {}

impl AttentionOps for Flex {
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if all_bf16(&[&q, &k, &v]) {
            let (out, logs) = Self::causal_attention(widened(q), widened(k), widened(v), shape);
            return (narrowed(out), logs);
        }
        if !all_f32(&[&q, &k, &v]) {
            return composed::forward::<Self>(q, k, v, &shape);
        }
        let (size, rows) = (q.shape(), [shape.batch * shape.seq, shape.heads]);
        let (q, k, v) = (contiguous(q), contiguous(k), contiguous(v));
        let [out, logs] = cpu::forward(values(&q), values(&k), values(&v), &shape);
        (flex::tensor(out, size), flex::tensor(logs, rows))
    }

    fn causal_attention_backward(
        grad: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if all_bf16(&[&grad, &q, &k, &v, &out]) {
            let [grad, q, k, v, out] = [grad, q, k, v, out].map(widened);
            let (dq, dk, dv) = Self::causal_attention_backward(grad, q, k, v, out, logs, shape);
            return (narrowed(dq), narrowed(dk), narrowed(dv));
        }
        if !all_f32(&[&grad, &q, &k, &v, &out, &logs]) {
            return composed::backward::<Self>(grad, [q, k, v, out, logs], &shape);
        }
        let (size, kv_size) = (q.shape(), k.shape());
        let [grad, q, k, v, out, logs] = [grad, q, k, v, out, logs].map(contiguous);
        let [q, k, v, out, logs] = [&q, &k, &v, &out, &logs].map(values);
        let [dq, dk, dv] = cpu::backward(values(&grad), cpu::Forward { q, k, v, out, logs }, &shape);
        (flex::tensor(dq, size), flex::tensor(dk, kv_size.clone()), flex::tensor(dv, kv_size))
    }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let (out, logs) = B::causal_attention(q.clone(), k.clone(), v.clone(), shape.clone());
        let out = match AttentionBackward.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([q, k, v, out.clone(), logs.clone()], shape), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, <FloatTensor<Self>>::new(logs))
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: AttentionOps> Backward<B, 3> for AttentionBackward {
    type State = ([FloatTensor<B>; 5], AttentionShape);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([q, k, v, out, logs], shape) = ops.state;
        let (dq, dk, dv) = B::causal_attention_backward(grad, q, k, v, out, logs, shape);
        for (node, grad) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// Causal attention of q (`[batch·seq, heads·d]`) to k and v (`[batch·seq, kv_heads·d]`): `[batch·seq, heads·d]`.
pub fn causal_attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, shape: AttentionShape) -> Tensor<2> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    let (out, _) = <Dispatch as AttentionOps>::causal_attention(q, k, v, shape);
    Tensor::from_dispatch(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_same, computes, evaluate, random};
    use burn::tensor::activation::softmax;
    use burn::tensor::{Bool, DType, TensorData, Tolerance};

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
        let scores = split(q, heads).matmul(repeat(k).swap_dims(2, 3)) / (head_dim as f64).sqrt();
        let scores = scores.mask_fill(hidden.expand([batch, heads, seq, seq]), f32::NEG_INFINITY);
        softmax(scores, 3).matmul(repeat(v)).swap_dims(1, 2).reshape([batch * seq, heads * head_dim])
    }

    fn shapes() -> Vec<AttentionShape> {
        let shape = |batch, seq, heads, kv_heads, head_dim| AttentionShape {
            batch,
            seq,
            heads,
            kv_heads,
            head_dim,
            starts: None,
        };
        let packed = |shape: AttentionShape, lengths: &[usize]| {
            let mut starts = Vec::new();
            for &length in lengths {
                let start = starts.len() % shape.seq;
                starts.extend(vec![start; length]);
            }
            assert_eq!(starts.len(), shape.batch * shape.seq);
            AttentionShape { starts: Some(Arc::new(starts)), ..shape }
        };
        vec![
            shape(1, 1, 1, 1, 1),
            shape(2, 5, 4, 2, 6),
            shape(1, 130, 6, 2, 8),
            shape(3, 65, 3, 3, 16),
            shape(1, 700, 2, 1, 4),
            packed(shape(2, 10, 4, 2, 6), &[3, 7, 1, 1, 8]),
            packed(shape(1, 200, 3, 1, 8), &[70, 1, 100, 29]),
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
            let fused =
                evaluate(&inputs, |t| causal_attention(t[0].clone(), t[1].clone(), t[2].clone(), shape.clone()));
            let expected = evaluate(&inputs, |t| reference(t[0].clone(), t[1].clone(), t[2].clone(), &shape));
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
        for shape in [shapes()[1].clone(), shapes()[5].clone()] {
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
}
