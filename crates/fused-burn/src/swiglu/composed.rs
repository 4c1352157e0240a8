//! In terms of ordinary tensor operations, for every backend.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use super::activation::Activation;
use crate::columns::ColumnOps;

pub(super) fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>, act: Activation) -> FloatTensor<B> {
    B::float_mul(act.value::<B>(gate), up)
}

pub(super) fn swiglu_backward<B: Backend>(
    grad: FloatTensor<B>,
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    act: Activation,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (value, slope) = act.value_and_slope::<B>(gate);
    let up_grad = B::float_mul(grad.clone(), value);
    (B::float_mul(B::float_mul(grad, up), slope), up_grad)
}

pub(super) fn scaled_swiglu<B: ColumnOps>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    l: FloatTensor<B>,
    act: Activation,
) -> FloatTensor<B> {
    B::scale_columns(swiglu::<B>(gate, up, act), l)
}

pub(super) fn scaled_swiglu_backward<B: ColumnOps>(
    grad: FloatTensor<B>,
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    l: FloatTensor<B>,
    act: Activation,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (grad, l_grad) = B::scale_columns_backward(grad, swiglu::<B>(gate.clone(), up.clone(), act), l);
    let (gate_grad, up_grad) = swiglu_backward::<B>(grad, gate, up, act);
    (gate_grad, up_grad, l_grad)
}
