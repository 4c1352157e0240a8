//! In terms of other operations, for every backend.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use fused_burn::{BaseWeight, BaseWeightOps, ColumnOps, ProjectionOps, cast};

pub(super) fn vera_linear<B: BaseWeightOps + ColumnOps>(
    x: FloatTensor<B>,
    weight: BaseWeight<B>,
    [low, lambda_d, b, lambda_b]: [FloatTensor<B>; 4],
    rounded: bool,
) -> FloatTensor<B> {
    let precise = low.dtype();
    let dtype = if rounded { x.dtype() } else { precise };
    let update = B::scale_columns(B::project(B::scale_columns(low, lambda_d), b), lambda_b);
    let product = cast::<B>(B::base_project(x, weight), precise);
    cast::<B>(B::float_add(product, update), dtype)
}

pub(super) fn vera_backward<B: ProjectionOps + ColumnOps>(
    grad: FloatTensor<B>,
    low: FloatTensor<B>,
    lambda_d: FloatTensor<B>,
    b: FloatTensor<B>,
    lambda_b: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let grad = cast::<B>(grad, low.dtype());
    let scaled = B::scale_columns(low.clone(), lambda_d.clone());
    let sums = B::float_mul(B::float_matmul(B::float_transpose(grad.clone()), scaled), b.clone());
    let lambda_b_grad = B::float_reshape(B::float_sum_dim(sums, 1), Shape::from([lambda_b.shape()[0]]));
    let scaled_grad = B::float_matmul(B::scale_columns(grad, lambda_b), b);
    let (low_grad, lambda_d_grad) = B::scale_columns_backward(scaled_grad, low, lambda_d);
    (low_grad, lambda_d_grad, lambda_b_grad)
}
