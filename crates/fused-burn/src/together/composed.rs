//! In terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::AdamWStep;
use crate::precision::cast;

pub(super) fn sum_of_squares<B: Backend>(tensors: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    let device = tensors[0].device();
    let zero = B::float_zeros(Shape::from([1]), &device, DType::F32.into());
    tensors.into_iter().fold(zero, |sum, tensor| {
        let tensor = cast::<B>(tensor, DType::F32);
        let square = B::float_sum(B::float_mul(tensor.clone(), tensor));
        B::float_add(sum, B::float_reshape(square, Shape::from([1])))
    })
}

pub(super) fn adam_w<B: Backend>(
    parameters: Vec<FloatTensor<B>>,
    [gradients, first, second]: [Vec<FloatTensor<B>>; 3],
    factor: FloatTensor<B>,
    step: &AdamWStep,
) -> Vec<FloatTensor<B>> {
    let [beta_1, beta_2] = step.betas;
    let seen = step.seen();
    let mut results: [Vec<_>; 3] = Default::default();
    for (((p, g), m), v) in parameters.into_iter().zip(gradients).zip(first).zip(second) {
        let ones = Shape::from(vec![1; p.shape().num_dims()]);
        let factor = cast::<B>(B::float_reshape(factor.clone(), ones), g.dtype());
        let g = B::float_mul(g, factor);
        let square = B::float_mul(g.clone(), g.clone());
        let smooth = |old, now, beta: f32| {
            let now = B::float_mul_scalar(now, (1.0 - beta).into());
            B::float_add(B::float_mul_scalar(old, beta.into()), now)
        };
        let (m, v) = (smooth(m, g, beta_1), smooth(v, square, beta_2));
        let root = B::float_sqrt(B::float_div_scalar(v.clone(), seen[1].into()));
        let delta = B::float_div(
            B::float_div_scalar(m.clone(), seen[0].into()),
            B::float_add_scalar(root, step.epsilon.into()),
        );
        let delta = B::float_mul_scalar(delta, step.lr.into());
        results[0].push(B::float_sub(B::float_mul_scalar(p, step.kept().into()), delta));
        results[1].push(m);
        results[2].push(v);
    }
    results.into_iter().flatten().collect()
}
