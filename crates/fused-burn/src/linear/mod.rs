//! `y = x·Wᵀ`. Backward keeps x only if W is trained, and W only if x has a gradient.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

mod composed;
mod cpu;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// The linear map of rows: x `[n, in]` and W `[out, in]` of one dtype.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait ProjectionOps: Backend {
    /// `x·Wᵀ`: `[n, out]`.
    #[fusion(default)]
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::project::<Self>(x, weight)
    }

    /// The gradient of [`project`](Self::project) with respect to x.
    #[fusion(default)]
    fn project_backward(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::project_backward::<Self>(grad, weight)
    }
}

#[cfg(feature = "cube")]
impl ProjectionOps for burn_cubecl::CubeBackend {}

impl<B: ProjectionOps, C: CheckpointStrategy> ProjectionOps for Autodiff<B, C> {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        // Each is kept only if the other's gradient is wanted.
        let kept_x = weight.is_tracked().then(|| x.primitive().clone());
        let kept_weight = x.is_tracked().then(|| weight.primitive().clone());
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        match LinearBackward.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((kept_x, kept_weight), B::project(x, weight)),
            OpsKind::UnTracked(prep) => prep.finish(B::project(x, weight)),
        }
    }
}

#[derive(Debug)]
struct LinearBackward;

impl<B: ProjectionOps> Backward<B, 2> for LinearBackward {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, weight_node] = ops.parents;
        let (x, weight) = ops.state;
        if let (Some(node), Some(x)) = (weight_node, x) {
            grads.register::<B>(node.id, B::float_matmul(B::float_transpose(grad.clone()), x));
        }
        if let (Some(node), Some(weight)) = (x_node, weight) {
            grads.register::<B>(node.id, B::project_backward(grad, weight));
        }
    }
}

/// `x·Wᵀ`, of one dtype.
///
/// # Shapes
/// - x: `[n, in]`
/// - weight: `[out, in]`
/// - result: `[n, out]`
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as ProjectionOps>::project(x.into_dispatch(), weight.into_dispatch()))
}
