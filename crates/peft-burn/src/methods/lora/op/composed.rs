//! In terms of other operations, for every backend.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use fused_burn::{BaseWeight, BaseWeightOps, ProjectionOps, cast};

pub(super) fn lora_linear<B: BaseWeightOps>(
    x: FloatTensor<B>,
    weight: BaseWeight<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f32,
    rounded: bool,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let precise = a.dtype();
    let dtype = if rounded { x.dtype() } else { precise };
    let low = B::project(cast::<B>(x.clone(), precise), a);
    let update = B::project(B::float_mul_scalar(low.clone(), scale.into()), b);
    let product = cast::<B>(B::base_project(x, weight), precise);
    (cast::<B>(B::float_add(product, update), dtype), low)
}

pub(super) fn lora_factors_backward<B: ProjectionOps>(
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
    low: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f32,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (grad, x) = (cast::<B>(grad, b.dtype()), cast::<B>(x, b.dtype()));
    let low_grad = B::float_mul_scalar(B::float_matmul(grad.clone(), b), scale.into());
    let a_grad = B::float_matmul(B::float_transpose(low_grad.clone()), x);
    let b_grad = B::float_matmul(B::float_transpose(grad), B::float_mul_scalar(low, scale.into()));
    (a_grad, b_grad, low_grad)
}

pub(super) fn lora_input_backward<B: BaseWeightOps>(
    grad: FloatTensor<B>,
    weight: BaseWeight<B>,
    low_grad: FloatTensor<B>,
    a: FloatTensor<B>,
) -> FloatTensor<B> {
    let (dtype, precise) = (weight.dtype(), a.dtype());
    let x_grad = cast::<B>(B::base_project_backward(cast::<B>(grad, dtype), weight), precise);
    cast::<B>(B::float_add(x_grad, B::float_matmul(low_grad, a)), dtype)
}
