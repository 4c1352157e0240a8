//! `y = c ∘ (x·Wᵀ)` as one operation: c (`[out]`) scales the columns, as (IA)³ (Liu et al. 2022) does.
//!
//! The gradient of c reads the product before it was scaled. On the CPU the product is scaled as it is written, and what
//! backward reads is y itself, over c: what follows often keeps y too, and then it is there once.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use crate::base_linear::{BaseWeight, BaseWeightOps};
use crate::columns::ColumnOps;
use crate::packed::Weight;
use crate::precision::cast;

mod composed;
mod cpu;

pub use cpu::can_tell;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// Scaled linear maps of rows: x and W as for [`BaseWeightOps`], c `[out]` of x's dtype or f32. W is a constant.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait ScaledProjectionOps: BaseWeightOps + ColumnOps {
    /// `c ∘ (x·Wᵀ)`: `[n, out]`, in x's dtype if `rounded`, else in c's; and what [`Self::scale_backward`] reads of it.
    #[fusion(default)]
    fn scaled_linear(
        x: FloatTensor<Self>,
        #[extension_type] weight: BaseWeight<Self>,
        c: FloatTensor<Self>,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::scaled_linear::<Self>(x, weight, c, rounded)
    }

    /// The gradients, in c's dtype, with respect to what was scaled and to c.
    #[fusion(default)]
    fn scale_backward(
        grad: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        Self::scale_columns_backward(cast::<Self>(grad, c.dtype()), kept, c)
    }
}

#[cfg(feature = "cube")]
impl ScaledProjectionOps for burn::backend::Cube {}

impl<B: ScaledProjectionOps, C: CheckpointStrategy> ScaledProjectionOps for Autodiff<B, C> {
    fn scaled_linear(
        x: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        c: FloatTensor<Self>,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let learns = c.is_tracked();
        let (weight, (x, x_node), (c, c_node)) = (weight.into_primitive(), x.into_parts(), c.into_parts());
        let dtype = x.dtype();
        let (y, kept) = B::scaled_linear(x, weight.clone(), c.clone(), rounded);
        let y = match ScaledBackward.prepare::<C>([x_node, c_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((weight, dtype, Scaling { c, kept: learns.then(|| kept.clone()) }), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, <FloatTensor<Self>>::new(kept))
    }
}

/// The scaling, as backward needs it.
#[derive(Clone, Debug)]
pub struct Scaling<B: Backend> {
    /// The factors of the columns.
    pub c: FloatTensor<B>,
    /// For c's gradient, if it is wanted.
    pub kept: Option<FloatTensor<B>>,
}

impl<B: ScaledProjectionOps> Scaling<B> {
    /// The gradients with respect to what was scaled and, if it is wanted, to c.
    pub fn backward(self, grad: FloatTensor<B>) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        let Self { c, kept } = self;
        match kept {
            Some(kept) => {
                let (grad, c_grad) = B::scale_backward(grad, kept, c);
                (grad, Some(c_grad))
            }
            None => (B::scale_columns(cast::<B>(grad, c.dtype()), c), None),
        }
    }
}

#[derive(Debug)]
struct ScaledBackward;

impl<B: ScaledProjectionOps> Backward<B, 2> for ScaledBackward {
    /// W, x's dtype and the scaling.
    type State = (BaseWeight<B>, DType, Scaling<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, c_node] = ops.parents;
        let (weight, dtype, scaling) = ops.state;
        let (grad, c_grad) = scaling.backward(grad);
        if let (Some(node), Some(c_grad)) = (c_node, c_grad) {
            grads.register::<B>(node.id, c_grad);
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::base_project_backward(cast::<B>(grad, dtype), weight));
        }
    }
}

/// `c ∘ (x·Wᵀ)` for x and W of one dtype and c of the same or of f32. W gets no gradient.
///
/// The result is in x's dtype if `rounded`, else in c's.
///
/// # Shapes
/// - x: `[n, in]`
/// - weight: `[out, in]`
/// - c: `[out]`
/// - result: `[n, out]`
pub fn scaled_linear(x: Tensor<2>, weight: impl Into<Weight>, c: Tensor<1>, rounded: bool) -> Tensor<2> {
    let (y, _) = <Dispatch as ScaledProjectionOps>::scaled_linear(
        x.into_dispatch(),
        weight.into().into_base(),
        c.into_dispatch(),
        rounded,
    );
    Tensor::from_dispatch(y)
}
