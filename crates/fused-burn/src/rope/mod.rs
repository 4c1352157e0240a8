//! Rotary position embedding in Hugging Face's half-split layout. Backward turns the other way and keeps the tables alone.

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

/// Rotation of the heads of x (`[n, heads·d]`): each pair `(x[i], x[i + d/2])` turns by the angle whose cosine and sine are
/// in the tables (`[m, d/2]`, x's dtype; n is a multiple of m, and row r of x takes row `r mod m`). Heads that are wider than
/// the tables say, `width`, keep what lies behind.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait RopeOps: Backend {
    /// Turns forward, or back with `inverse`.
    #[fusion(dtype = x, shape = x)]
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        width: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        composed::rope::<Self>(x, cos, sin, width, inverse)
    }
}

impl<B: RopeOps, C: CheckpointStrategy> RopeOps for Autodiff<B, C> {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        width: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match RopeBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (cos.clone(), sin.clone(), width, !inverse);
                prep.finish(state, B::rope(x, cos, sin, width, inverse))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rope(x, cos, sin, width, inverse)),
        }
    }
}

#[derive(Debug)]
struct RopeBackward;

impl<B: RopeOps> Backward<B, 1> for RopeBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, usize, bool);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (cos, sin, width, inverse) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::rope(grad, cos, sin, width, inverse));
        }
    }
}

/// Turns the heads of x by the angles whose cosines and sines are given: row r of x takes their row `r mod m`.
///
/// # Shapes
/// - x: `[n, heads·d]`
/// - cos, sin: `[m, d/2]`
/// - result: `[n, heads·d]`
pub fn rope(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<2> {
    let width = 2 * cos.dims()[1];
    partial_rope(x, cos, sin, width)
}

/// As [`rope`], for heads of `width` values of which the first `2·d` turn and the others stay, where the tables are
/// `[m, d]`.
pub fn partial_rope(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>, width: usize) -> Tensor<2> {
    let (cos, sin) = (cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(<Dispatch as RopeOps>::rope(x.into_dispatch(), cos, sin, width, false))
}
