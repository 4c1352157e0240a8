//! In terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Shape;

use crate::precision::{cast, precise};

/// `1 / √(mean(x²) + ε)`, `[n, 1]`, for x in f32 or f64.
fn inverse<B: Backend>(x: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean, eps.into())))
}

fn row<B: Backend>(gain: FloatTensor<B>) -> FloatTensor<B> {
    let width = gain.shape()[0];
    B::float_reshape(gain, Shape::from([1, width]))
}

pub(super) fn normalised<B: Backend>(x: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = cast::<B>(x, precise(dtype));
    let inverse = inverse::<B>(x.clone(), eps);
    cast::<B>(B::float_mul(x, inverse), dtype)
}

pub(super) fn rms_norm<B: Backend>(x: FloatTensor<B>, gain: FloatTensor<B>, eps: f64, offset: f64) -> FloatTensor<B> {
    if offset == 0.0 {
        return B::float_mul(normalised::<B>(x, eps), row::<B>(gain));
    }
    let dtype = x.dtype();
    let x = cast::<B>(x, precise(dtype));
    cast::<B>(B::float_mul(normalised::<B>(x, eps), row::<B>(whole_gain::<B>(gain, offset))), dtype)
}

/// The gain with its offset, in f32 or f64.
fn whole_gain<B: Backend>(gain: FloatTensor<B>, offset: f64) -> FloatTensor<B> {
    let precise = precise(gain.dtype());
    B::float_add_scalar(cast::<B>(gain, precise), offset.into())
}

pub(super) fn rms_norm_backward<B: Backend>(
    grad: FloatTensor<B>,
    x: FloatTensor<B>,
    gain: FloatTensor<B>,
    eps: f64,
    offset: f64,
) -> FloatTensor<B> {
    // With u = g·dy and i the inverse: dx = i·u − x·i³·mean(u·x).
    let dtype = x.dtype();
    let u = if offset == 0.0 {
        cast::<B>(B::float_mul(grad, row::<B>(gain)), precise(dtype))
    } else {
        B::float_mul(cast::<B>(grad, precise(dtype)), row::<B>(whole_gain::<B>(gain, offset)))
    };
    let x = cast::<B>(x, precise(dtype));
    let inverse = inverse::<B>(x.clone(), eps);
    let normed = B::float_mul(x, inverse.clone());
    let mean = B::float_mean_dim(B::float_mul(u.clone(), normed.clone()), 1);
    let x_grad = B::float_mul(B::float_sub(u, B::float_mul(normed, mean)), inverse);
    cast::<B>(x_grad, dtype)
}

pub(super) fn gain_backward<B: Backend>(grad: FloatTensor<B>, x: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let width = x.shape()[1];
    let sum = B::float_sum_dim(B::float_mul(grad, normalised::<B>(x, eps)), 0);
    B::float_reshape(sum, Shape::from([width]))
}
