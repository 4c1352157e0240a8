//! In terms of ordinary tensor operations, for every backend.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

pub(super) fn project<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(x, B::float_transpose(weight))
}

pub(super) fn project_backward<B: Backend>(grad: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(grad, weight)
}
