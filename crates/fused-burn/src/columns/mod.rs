//! `y = x ∘ c`: every row of a matrix times one vector, where it is not part of a larger operation. Backward makes both
//! gradients in one pass, and keeps x only if c is trained.

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

/// Scaling of the columns of x (`[n, m]`) by c (`[m]`, of x's dtype or f32).
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait ColumnOps: Backend {
    /// `x ∘ c` in x's dtype.
    #[fusion(default)]
    fn scale_columns(x: FloatTensor<Self>, c: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::scale::<Self>(x, c)
    }

    /// The gradients with respect to x and c.
    #[fusion(default)]
    fn scale_columns_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        (composed::scale::<Self>(grad.clone(), c.clone()), composed::factor_grad::<Self>(grad, x, c))
    }
}

#[cfg(feature = "cube")]
impl ColumnOps for burn::backend::Cube {}

impl<B: ColumnOps, C: CheckpointStrategy> ColumnOps for Autodiff<B, C> {
    fn scale_columns(x: FloatTensor<Self>, c: FloatTensor<Self>) -> FloatTensor<Self> {
        let kept_x = c.is_tracked().then(|| x.primitive().clone());
        let ((x, x_node), (c, c_node)) = (x.into_parts(), c.into_parts());
        match ColumnsBackward.prepare::<C>([x_node, c_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((kept_x, c.clone()), B::scale_columns(x, c)),
            OpsKind::UnTracked(prep) => prep.finish(B::scale_columns(x, c)),
        }
    }
}

#[derive(Debug)]
struct ColumnsBackward;

impl<B: ColumnOps> Backward<B, 2> for ColumnsBackward {
    type State = (Option<FloatTensor<B>>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, c_node] = ops.parents;
        match (c_node, ops.state) {
            (Some(c_node), (Some(x), c)) => {
                let (x_grad, c_grad) = B::scale_columns_backward(grad, x, c);
                grads.register::<B>(c_node.id, c_grad);
                if let Some(node) = x_node {
                    grads.register::<B>(node.id, x_grad);
                }
            }
            (_, (_, c)) => {
                if let Some(node) = x_node {
                    grads.register::<B>(node.id, B::scale_columns(grad, c));
                }
            }
        }
    }
}

/// `x ∘ c`, in x's dtype: each column of x times its number of c. c may be in f32 where x is in less.
///
/// # Shapes
/// - x: `[n, m]`
/// - c: `[m]`
/// - result: `[n, m]`
pub fn scale_columns(x: Tensor<2>, c: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as ColumnOps>::scale_columns(x.into_dispatch(), c.into_dispatch()))
}
