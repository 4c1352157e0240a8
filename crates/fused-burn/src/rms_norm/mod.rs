//! Root-mean-square normalisation: `y = x / √(mean(x²) + ε) · (g + offset)` on each row. Backward reads x alone.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

mod composed;
mod cpu;
#[cfg(feature = "cube")]
mod gpu;

#[cfg(test)]
mod tests;

/// Root-mean-square normalisation of the rows of x (`[n, width]`) with gain g (`[width]`) of the same dtype, computed in
/// f32.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait RmsNormOps: Backend {
    /// The normalised rows.
    #[fusion(dtype = x, shape = x)]
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64, offset: f64) -> FloatTensor<Self> {
        composed::rms_norm::<Self>(x, gain, eps, offset)
    }

    /// The gradient with respect to x.
    #[fusion(dtype = x, shape = x)]
    fn rms_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f64,
        offset: f64,
    ) -> FloatTensor<Self> {
        composed::rms_norm_backward::<Self>(grad, x, gain, eps, offset)
    }
}

impl<B: RmsNormOps, C: CheckpointStrategy> RmsNormOps for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64, offset: f64) -> FloatTensor<Self> {
        let ((x, x_node), (gain, gain_node)) = (x.into_parts(), gain.into_parts());
        match RmsNormBackward.prepare::<C>([x_node, gain_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((x.clone(), gain.clone(), [eps, offset]), B::rms_norm(x, gain, eps, offset))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x, gain, eps, offset)),
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: RmsNormOps> Backward<B, 2> for RmsNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, [f64; 2]);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, gain_node] = ops.parents;
        let (x, gain, [eps, offset]) = ops.state;
        if let Some(node) = gain_node {
            grads.register::<B>(node.id, composed::gain_backward::<B>(grad.clone(), x.clone(), eps));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::rms_norm_backward(grad, x, gain, eps, offset));
        }
    }
}

/// `x / √(mean(x²) + ε) · g` on the rows of x, with a gain g of x's dtype.
///
/// # Shapes
/// - x: `[n, width]`
/// - gain: `[width]`
/// - result: `[n, width]`
pub fn rms_norm(x: Tensor<2>, gain: Tensor<1>, eps: f64) -> Tensor<2> {
    offset_rms_norm(x, gain, eps, 0.0)
}

/// As [`rms_norm`], with the gain `g + offset`: Gemma's norms store g − 1. Where there is an offset, the product with the
/// gain is rounded to x's dtype once, as theirs is.
pub fn offset_rms_norm(x: Tensor<2>, gain: Tensor<1>, eps: f64, offset: f64) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as RmsNormOps>::rms_norm(x.into_dispatch(), gain.into_dispatch(), eps, offset))
}
