//! `y = x ∘ c`: every row of a matrix times one vector, where it is not part of a larger operation. Backward makes both
//! gradients in one pass, and keeps x only if c is trained.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use super::flex::{self, all_f32, contiguous, dims2, narrowed, owned, values, values_mut, widened};
use super::rows::{each_row, each_row_summing};

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

/// The operations in terms of ordinary tensor operations, for every backend.
mod composed {
    use super::{Backend, FloatTensor, TensorMetadata};
    use crate::ops::cast;
    use burn::tensor::Shape;

    pub(super) fn scale<B: Backend>(x: FloatTensor<B>, c: FloatTensor<B>) -> FloatTensor<B> {
        let (dtype, width) = (x.dtype(), c.shape()[0]);
        let c = B::float_reshape(c, Shape::from([1, width]));
        let x = cast::<B>(x, c.dtype());
        cast::<B>(B::float_mul(x, c), dtype)
    }

    pub(super) fn factor_grad<B: Backend>(
        grad: FloatTensor<B>,
        x: FloatTensor<B>,
        c: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let (grad, x) = (cast::<B>(grad, c.dtype()), cast::<B>(x, c.dtype()));
        B::float_reshape(B::float_sum_dim(B::float_mul(grad, x), 0), c.shape())
    }
}

#[cfg(feature = "cube")]
impl ColumnOps for burn::backend::Cube {}

impl ColumnOps for Flex {
    fn scale_columns(x: FloatTensor<Self>, c: FloatTensor<Self>) -> FloatTensor<Self> {
        if x.dtype() == DType::BF16 && c.dtype() == DType::F32 {
            return narrowed(Self::scale_columns(widened(x), c));
        }
        if !all_f32(&[&x, &c]) {
            return composed::scale::<Self>(x, c);
        }
        let [n, width] = dims2(&x);
        let (x, c) = (contiguous(x), contiguous(c));
        let (x, c) = (values(&x), &values(&c)[..width]);
        let mut out = flex::buffer(n * width);
        each_row(
            &mut out,
            width,
            #[inline(always)]
            |row, out| {
                for ((y, x), c) in out.iter_mut().zip(&x[row * width..]).zip(c) {
                    *y = x * c;
                }
            },
        );
        flex::tensor(out, [n, width])
    }

    fn scale_columns_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if grad.dtype() == DType::BF16 && c.dtype() == DType::F32 {
            let (x_grad, c_grad) = Self::scale_columns_backward(widened(grad), widened(x), c);
            return (narrowed(x_grad), c_grad);
        }
        if !all_f32(&[&grad, &x, &c]) {
            let x_grad = composed::scale::<Self>(grad.clone(), c.clone());
            return (x_grad, composed::factor_grad::<Self>(grad, x, c));
        }
        let [_, width] = dims2(&x);
        let (mut grad, x, c) = (owned(grad), contiguous(x), contiguous(c));
        let (x, c) = (values(&x), &values(&c)[..width]);
        let c_grad = each_row_summing(
            values_mut(&mut grad),
            width,
            #[inline(always)]
            |row, grad, sums| {
                for (((g, x), c), sum) in grad.iter_mut().zip(&x[row * width..]).zip(c).zip(sums) {
                    *sum += *g * x;
                    *g *= c;
                }
            },
        );
        (grad, flex::tensor(c_grad, [width]))
    }
}

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

/// `x ∘ c` for x `[n, m]` and c `[m]`, in x's dtype; c may be in f32 where x is in less.
pub fn scale_columns(x: Tensor<2>, c: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as ColumnOps>::scale_columns(x.into_dispatch(), c.into_dispatch()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, computes, random};
    use burn::tensor::{TensorData, Tolerance};

    /// The value and the gradients that are there, with x and c trained as said.
    fn evaluate(
        [n, m]: [usize; 2],
        dtype: DType,
        trained: [bool; 2],
        f: impl Fn(Tensor<2>, Tensor<1>) -> Tensor<2>,
    ) -> Vec<TensorData> {
        let x = random(1, [n, m]).cast(dtype).detach().set_require_grad(trained[0]);
        let c_dtype = if dtype == DType::BF16 { DType::F32 } else { dtype };
        let c = random(2, [m]).cast(c_dtype).detach().set_require_grad(trained[1]);
        let y = f(x.clone(), c.clone());
        let grads = (y.clone() * random(3, [n, m]).cast(dtype)).sum().backward();
        let grads = [x.grad(&grads).map(Tensor::into_data), c.grad(&grads).map(Tensor::into_data)];
        assert_eq!(grads.each_ref().map(Option::is_some), trained);
        std::iter::once(y.into_data()).chain(grads.into_iter().flatten()).collect()
    }

    #[test]
    fn gradients_are_the_slopes() {
        let inputs = [random(4, [5, 3]), random(5, [1, 3])];
        assert_finite_differences(&inputs, |t| scale_columns(t[0].clone(), t[1].clone().reshape([3])));
    }

    #[test]
    fn fused_is_the_broadcast_product_with_every_gradient() {
        for shape in [[1, 1], [3, 7], [200, 333], [1, 70_000]] {
            let dtypes = [(DType::F32, 1e-4), (DType::F64, 1e-6), (DType::BF16, 0.05)];
            for (dtype, tolerance) in dtypes.into_iter().filter(|(dtype, _)| computes(*dtype)) {
                for trained in [[true, true], [true, false], [false, true]] {
                    let fused = evaluate(shape, dtype, trained, scale_columns);
                    let plain =
                        evaluate(shape, dtype, trained, |x, c| (x.cast(c.dtype()) * c.unsqueeze::<2>()).cast(dtype));
                    for (fused, plain) in fused.iter().zip(&plain) {
                        let (fused, plain) = (fused.clone().convert::<f64>(), plain.clone().convert::<f64>());
                        fused.assert_approx_eq::<f64>(&plain, Tolerance::rel_abs(tolerance, tolerance * 10.0));
                    }
                }
            }
        }
    }
}
