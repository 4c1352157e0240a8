//! Causal grouped-query attention, `softmax(q·kᵀ/√d)·v`. Backward keeps q, k, v, the output and a number for each query and
//! head, and works the weights out again, so that memory grows with the sequence and not with its square; no mask is kept,
//! and keys are not repeated for the heads of a group.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
#[cfg(feature = "fusion")]
use burn::tensor::Shape;
use burn::tensor::Tensor;

#[cfg(feature = "fusion")]
use crate::precision::precise;

mod blocks;
mod composed;
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
mod shape;
mod starts;

pub use shape::AttentionShape;
pub use starts::Starts;

#[cfg(test)]
mod tests;

/// Causal attention of q (`[batch·seq, heads·d]`) to k and v (`[batch·seq, kv_heads·d]`), all of one dtype.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait AttentionOps: Backend {
    /// The heads' outputs, `[batch·seq, heads·d]`, and the logarithm of each query's sum of the exponentials of its scores,
    /// `[batch·seq, heads]` in f32 at least, which backward reads.
    #[fusion(meta = |q, _k, _v, shape| (q.clone(), logs_of(q, shape)))]
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        shape: AttentionShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::forward::<Self>(q, k, v, &shape)
    }

    /// The gradients with respect to q, k and v, for what [`causal_attention`](Self::causal_attention) returned.
    #[fusion(meta = |_grad, q, k, v, _out, _logs, _shape| (q.clone(), k.clone(), v.clone()))]
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

/// The logarithms' shape and dtype.
#[cfg(feature = "fusion")]
fn logs_of(q: &TensorSpec, shape: &AttentionShape) -> TensorSpec {
    TensorSpec::new(Shape::from([shape.batch * shape.seq, shape.heads]), precise(q.dtype))
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

/// Causal attention of q to k and v: each position sees itself and those before it in its own text.
///
/// # Shapes
/// - q: `[batch·seq, heads·d]`
/// - k, v: `[batch·seq, kv_heads·d]`
/// - result: `[batch·seq, heads·d]`
pub fn causal_attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, shape: AttentionShape) -> Tensor<2> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    let (out, _) = <Dispatch as AttentionOps>::causal_attention(q, k, v, shape);
    Tensor::from_dispatch(out)
}
