//! In terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Shape;

use crate::precision::cast;

pub(super) fn scale<B: Backend>(x: FloatTensor<B>, c: FloatTensor<B>) -> FloatTensor<B> {
    let (dtype, width) = (x.dtype(), c.shape()[0]);
    let c = B::float_reshape(c, Shape::from([1, width]));
    let x = cast::<B>(x, c.dtype());
    cast::<B>(B::float_mul(x, c), dtype)
}

pub(super) fn factor_grad<B: Backend>(grad: FloatTensor<B>, x: FloatTensor<B>, c: FloatTensor<B>) -> FloatTensor<B> {
    let (grad, x) = (cast::<B>(grad, c.dtype()), cast::<B>(x, c.dtype()));
    B::float_reshape(B::float_sum_dim(B::float_mul(grad, x), 0), c.shape())
}
