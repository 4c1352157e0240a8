//! Grouped-query attention to any keys with any mask, `softmax(q·kᵀ/√d)·v`, as a token that is generated attends to the
//! cache. Backward keeps q, k and v, and works the weights out again.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::{Bool, Tensor};

use crate::scores::Scores;

mod composed;
mod cpu;
mod sizes;

#[cfg(test)]
mod tests;

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
        rule: Scores,
    ) -> FloatTensor<Self> {
        composed::forward::<Self>(q, k, v, hidden, rule)
    }

    /// The gradients with respect to q, k and v.
    #[fusion(default)]
    fn masked_attention_backward(
        grad: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
        rule: Scores,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::backward::<Self>(grad, q, k, v, hidden, rule)
    }
}

#[cfg(feature = "cube")]
impl MaskedAttentionOps for burn::backend::Cube {}

impl<B: MaskedAttentionOps, C: CheckpointStrategy> MaskedAttentionOps for Autodiff<B, C> {
    fn masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
        rule: Scores,
    ) -> FloatTensor<Self> {
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let out = B::masked_attention(q.clone(), k.clone(), v.clone(), hidden.clone(), rule);
        match MaskedAttentionBackward.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([q, k, v], hidden, rule), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[derive(Debug)]
struct MaskedAttentionBackward;

impl<B: MaskedAttentionOps> Backward<B, 3> for MaskedAttentionBackward {
    type State = ([FloatTensor<B>; 3], BoolTensor<B>, Scores);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([q, k, v], hidden, rule) = ops.state;
        let (dq, dk, dv) = B::masked_attention_backward(grad, q, k, v, hidden, rule);
        for (node, grad) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// Attention of q to k and v, where `hidden` hides a key from a query where it is true.
///
/// # Shapes
/// - q: `[batch·queries, heads·d]`
/// - k, v: `[batch, kv_heads, keys, d]`
/// - hidden: `[1 or batch, 1, 1 or queries, 1 or keys]`
/// - result: `[batch·queries, heads·d]`
pub fn masked_attention(q: Tensor<2>, k: Tensor<4>, v: Tensor<4>, hidden: Tensor<4, Bool>) -> Tensor<2> {
    masked_attention_with(q, k, v, hidden, Scores::default())
}

/// As [`masked_attention`], with scores made by `rule`.
pub fn masked_attention_with(
    q: Tensor<2>,
    k: Tensor<4>,
    v: Tensor<4>,
    hidden: Tensor<4, Bool>,
    rule: Scores,
) -> Tensor<2> {
    let (q, k, v, hidden) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), hidden.into_dispatch());
    Tensor::from_dispatch(<Dispatch as MaskedAttentionOps>::masked_attention(q, k, v, hidden, rule))
}
