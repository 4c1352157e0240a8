//! VeRA (Kopiczko et al. 2023), `y = x·Wᵀ + λ_b ∘ ((λ_d ∘ low)·Bᵀ)` for `low = x·Aᵀ`, as one operation. W and B are
//! constants.
//!
//! On the CPU the update is added where the base's product is written, and λ_b scales B's rows beforehand. So the update
//! alone never exists: the gradient of λ_b, which would read it, is the sum of `(gᵀ·(λ_d ∘ low)) ∘ B` along its rows.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use fused_burn::{BaseWeight, BaseWeightOps, ColumnOps, Weight, cast};

mod composed;
mod cpu;

#[cfg(test)]
mod tests;

/// x `[n, in]` and W `[out, in]` of one dtype; low `[n, r]`, λ_d `[r]`, B `[out, r]` and λ_b `[out]` of the same, or of f32.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait VeraOps: BaseWeightOps + ColumnOps {
    /// `[n, out]`, in x's dtype if `rounded`, else in low's.
    #[fusion(default)]
    #[allow(clippy::too_many_arguments)]
    fn vera_linear(
        x: FloatTensor<Self>,
        #[extension_type] weight: BaseWeight<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
        rounded: bool,
    ) -> FloatTensor<Self> {
        composed::vera_linear::<Self>(x, weight, [low, lambda_d, b, lambda_b], rounded)
    }

    /// The gradients with respect to low, λ_d and λ_b.
    #[fusion(default)]
    fn vera_backward(
        grad: FloatTensor<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::vera_backward::<Self>(grad, low, lambda_d, b, lambda_b)
    }
}

#[cfg(feature = "cube")]
impl VeraOps for burn::backend::Cube {}

impl<B: VeraOps, C: CheckpointStrategy> VeraOps for Autodiff<B, C> {
    fn vera_linear(
        x: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
        rounded: bool,
    ) -> FloatTensor<Self> {
        let (weight, b) = (weight.into_primitive(), b.into_primitive());
        let ((x, x_node), (low, low_node)) = (x.into_parts(), low.into_parts());
        let ((lambda_d, d_node), (lambda_b, b_node)) = (lambda_d.into_parts(), lambda_b.into_parts());
        let dtype = x.dtype();
        let nodes = [x_node, low_node, d_node, b_node];
        match VeraBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::vera_linear(
                    x,
                    weight.clone(),
                    low.clone(),
                    lambda_d.clone(),
                    b.clone(),
                    lambda_b.clone(),
                    rounded,
                );
                prep.finish(VeraState { dtype, weight, low, lambda_d, b, lambda_b }, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::vera_linear(x, weight, low, lambda_d, b, lambda_b, rounded)),
        }
    }
}

#[derive(Debug)]
struct VeraBackward;

#[derive(Clone, Debug)]
struct VeraState<B: Backend> {
    /// x's.
    dtype: DType,
    weight: BaseWeight<B>,
    low: FloatTensor<B>,
    lambda_d: FloatTensor<B>,
    b: FloatTensor<B>,
    lambda_b: FloatTensor<B>,
}

impl<B: VeraOps> Backward<B, 4> for VeraBackward {
    type State = VeraState<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let VeraState { dtype, weight, low, lambda_d, b, lambda_b } = ops.state;
        let [x_node, low_node, d_node, b_node] = ops.parents;
        if low_node.is_some() || d_node.is_some() || b_node.is_some() {
            let (low_grad, d_grad, b_grad) = B::vera_backward(grad.clone(), low, lambda_d, b, lambda_b);
            for (node, grad) in [(low_node, low_grad), (d_node, d_grad), (b_node, b_grad)] {
                if let Some(node) = node {
                    grads.register::<B>(node.id, grad);
                }
            }
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::base_project_backward(cast::<B>(grad, dtype), weight));
        }
    }
}

/// VeRA's two vectors.
#[derive(Clone, Debug)]
pub struct VeraVectors {
    /// λ_d: `[r]`.
    pub d: Tensor<1>,
    /// λ_b: `[out]`.
    pub b: Tensor<1>,
}

/// `x·Wᵀ + λ_b ∘ ((λ_d ∘ low)·Bᵀ)` for x `[n, in]`, W `[out, in]`, low `[n, r]` and B `[out, r]`: x and W of one dtype, the
/// rest of the same or of f32. W and B get no gradients.
///
/// The sum is in x's dtype if `rounded`, else in low's.
pub fn vera_linear(
    x: Tensor<2>,
    weight: impl Into<Weight>,
    low: Tensor<2>,
    b: Tensor<2>,
    lambda: VeraVectors,
    rounded: bool,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as VeraOps>::vera_linear(
        x.into_dispatch(),
        weight.into().into_base(),
        low.into_dispatch(),
        lambda.d.into_dispatch(),
        b.into_dispatch(),
        lambda.b.into_dispatch(),
        rounded,
    ))
}
