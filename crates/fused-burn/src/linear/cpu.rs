//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::{ProjectionOps, composed};
use crate::flex::{self, as_common, contiguous, dense, dims2, is_common, mat};
use crate::matrix::product;

impl ProjectionOps for Flex {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_common(&x, &weight) {
            return composed::project::<Self>(x, weight);
        }
        let ([n, _], [out, _], dtype) = (dims2(&x), dims2(&weight), x.dtype());
        let (x, weight) = (contiguous(x), dense(weight));
        let y = product(mat(&x), mat(&weight).t());
        as_common(flex::tensor(y, [n, out]), dtype)
    }

    fn project_backward(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_common(&grad, &weight) {
            return composed::project_backward::<Self>(grad, weight);
        }
        let ([n, _], [_, inp], dtype) = (dims2(&grad), dims2(&weight), grad.dtype());
        let (grad, weight) = (contiguous(grad), dense(weight));
        let x_grad = product(mat(&grad), mat(&weight));
        as_common(flex::tensor(x_grad, [n, inp]), dtype)
    }
}
