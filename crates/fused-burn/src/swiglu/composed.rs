//! In terms of ordinary tensor operations, for every backend.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::columns::ColumnOps;

pub(super) fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(B::float_mul(gate.clone(), B::sigmoid(gate)), up)
}

pub(super) fn swiglu_backward<B: Backend>(
    grad: FloatTensor<B>,
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    // silu'(x) = σ(x)·(1 + x·(1 − σ(x))) = σ(x) + silu(x)·(1 − σ(x)).
    let sigmoid = B::sigmoid(gate.clone());
    let silu = B::float_mul(gate, sigmoid.clone());
    let up_grad = B::float_mul(grad.clone(), silu.clone());
    let slope = B::float_add(sigmoid.clone(), B::float_sub(silu.clone(), B::float_mul(silu, sigmoid)));
    (B::float_mul(B::float_mul(grad, up), slope), up_grad)
}

pub(super) fn scaled_swiglu<B: ColumnOps>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    l: FloatTensor<B>,
) -> FloatTensor<B> {
    B::scale_columns(swiglu::<B>(gate, up), l)
}

pub(super) fn scaled_swiglu_backward<B: ColumnOps>(
    grad: FloatTensor<B>,
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    l: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (grad, l_grad) = B::scale_columns_backward(grad, swiglu::<B>(gate.clone(), up.clone()), l);
    let (gate_grad, up_grad) = swiglu_backward::<B>(grad, gate, up);
    (gate_grad, up_grad, l_grad)
}
