//! DoRA (Liu et al. 2024), `y = c ∘ (x·Wᵀ + s·(x·Aᵀ)·Bᵀ)`, as one operation: LoRA's, with its columns scaled by c (`[out]`).
//!
//! For c's gradient it keeps the same as [`fused_burn::scaled_linear`].

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, backend_extension};
use burn::tensor::Tensor;
use fused_burn::{BaseWeight, ScaledProjectionOps, Scaling, Weight};

use crate::methods::lora::op::{LoraOps, LoraState};

mod composed;
mod cpu;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// Scaled linear maps of rows: x, W, A and B as for [`LoraOps`], c `[out]` of A's dtype. W is a constant.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait DoraOps: LoraOps + ScaledProjectionOps {
    /// `c ∘ (x·Wᵀ + s·low·Bᵀ)`, `low = x·Aᵀ`, and what [`ScaledProjectionOps::scale_backward`] reads of the first.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments)]
    fn dora_linear(
        x: FloatTensor<Self>,
        #[extension_type] weight: BaseWeight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::dora_linear::<Self>(x, weight, a, b, c, scale, rounded)
    }
}

#[cfg(feature = "cube")]
impl DoraOps for burn::backend::Cube {}

impl<B: DoraOps, C: CheckpointStrategy> DoraOps for Autodiff<B, C> {
    fn dora_linear(
        x: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let learns = c.is_tracked();
        let ((x, x_node), weight, (c, c_node)) = (x.into_parts(), weight.into_primitive(), c.into_parts());
        let ((a, a_node), (b, b_node)) = (a.into_parts(), b.into_parts());
        let (y, low, kept) = B::dora_linear(x.clone(), weight.clone(), a.clone(), b.clone(), c.clone(), scale, rounded);
        let y = match DoraBackward.prepare::<C>([x_node, a_node, b_node, c_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let scaling = Scaling { c, kept: learns.then(|| kept.clone()) };
                prep.finish((LoraState { x, weight, a, b, low: low.clone(), scale }, scaling), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, <FloatTensor<Self>>::new(low), <FloatTensor<Self>>::new(kept))
    }
}

#[derive(Debug)]
struct DoraBackward;

impl<B: DoraOps> Backward<B, 4> for DoraBackward {
    type State = (LoraState<B>, Scaling<B>);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, a_node, b_node, c_node] = ops.parents;
        let (lora, scaling) = ops.state;
        let (grad, c_grad) = scaling.backward(grad);
        let [a_grad, b_grad, x_grad] = lora.backward(grad, x_node.is_some());
        let found = [a_grad, b_grad, x_grad, c_grad];
        for (node, grad) in [a_node, b_node, x_node, c_node].into_iter().zip(found) {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// `c ∘ (x·Wᵀ + s·(x·Aᵀ)·Bᵀ)`: [`lora_linear`](crate::methods::lora::op::lora_linear) with its columns scaled by c (`[out]`, of A's dtype).
pub fn dora_linear(
    x: Tensor<2>,
    weight: impl Into<Weight>,
    [a, b]: [Tensor<2>; 2],
    c: Tensor<1>,
    scale: f64,
    rounded: bool,
) -> Tensor<2> {
    let (y, _, _) = <Dispatch as DoraOps>::dora_linear(
        x.into_dispatch(),
        weight.into().into_base(),
        a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
        scale as f32,
        rounded,
    );
    Tensor::from_dispatch(y)
}
