//! Root-mean-square normalisation: `y = x / √(mean(x²) + ε) · g` on each row. Backward reads x alone.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};
use peft_burn::ops::flex::{self, all_bf16, all_f32, contiguous, dims2, narrowed, owned, values, values_mut, widened};
use peft_burn::ops::rows::each_row;
use peft_burn::ops::simd;

/// Root-mean-square normalisation of the rows of x (`[n, width]`) with gain g (`[width]`) of the same dtype, computed in
/// f32.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait RmsNormOps: Backend {
    /// The normalised rows.
    #[fusion(default)]
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        composed::rms_norm::<Self>(x, gain, eps)
    }

    /// The gradient with respect to x.
    #[fusion(default)]
    fn rms_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        composed::rms_norm_backward::<Self>(grad, x, gain, eps)
    }
}

/// The operation in terms of ordinary tensor operations, for every backend.
mod composed {
    use super::{Backend, FloatTensor, Shape, TensorMetadata};
    use crate::ops::precise;
    use peft_burn::ops::cast;

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

    pub(super) fn rms_norm<B: Backend>(x: FloatTensor<B>, gain: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
        B::float_mul(normalised::<B>(x, eps), row::<B>(gain))
    }

    pub(super) fn rms_norm_backward<B: Backend>(
        grad: FloatTensor<B>,
        x: FloatTensor<B>,
        gain: FloatTensor<B>,
        eps: f64,
    ) -> FloatTensor<B> {
        // With u = g·dy and i the inverse: dx = i·u − x·i³·mean(u·x).
        let dtype = x.dtype();
        let u = cast::<B>(B::float_mul(grad, row::<B>(gain)), precise(dtype));
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
}

#[cfg(feature = "cube")]
impl RmsNormOps for burn::backend::Cube {}

#[inline(always)]
fn inverse(x: &[f32], eps: f32) -> f32 {
    let mean = simd::sum(
        x.len(),
        #[inline(always)]
        |i| x[i] * x[i],
    ) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

impl RmsNormOps for Flex {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        if all_bf16(&[&x, &gain]) {
            return narrowed(Self::rms_norm(widened(x), widened(gain), eps));
        }
        if !all_f32(&[&x, &gain]) {
            return composed::rms_norm::<Self>(x, gain, eps);
        }
        let [n, width] = dims2(&x);
        let (x, gain) = (contiguous(x), contiguous(gain));
        let (x, gain) = (values(&x), &values(&gain)[..width]);
        let mut out = flex::buffer(n * width);
        each_row(
            &mut out,
            width,
            #[inline(always)]
            |row, out| {
                let x = &x[row * width..][..width];
                let inverse = inverse(x, eps as f32);
                for ((y, x), g) in out.iter_mut().zip(x).zip(gain) {
                    *y = x * inverse * g;
                }
            },
        );
        flex::tensor(out, [n, width])
    }

    fn rms_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        if all_bf16(&[&grad, &x, &gain]) {
            return narrowed(Self::rms_norm_backward(widened(grad), widened(x), widened(gain), eps));
        }
        if !all_f32(&[&grad, &x, &gain]) {
            return composed::rms_norm_backward::<Self>(grad, x, gain, eps);
        }
        let [_, width] = dims2(&x);
        let (x, gain, mut grad) = (contiguous(x), contiguous(gain), owned(grad));
        let (x, gain) = (values(&x), &values(&gain)[..width]);
        each_row(
            values_mut(&mut grad),
            width,
            #[inline(always)]
            |row, grad| {
                let (x, grad) = (&x[row * width..][..width], &mut grad[..width]);
                let inverse = inverse(x, eps as f32);
                let dot = simd::sum(
                    width,
                    #[inline(always)]
                    |i| grad[i] * gain[i] * x[i],
                );
                let back = dot * inverse * inverse / width as f32;
                for i in 0..width {
                    grad[i] = (grad[i] * gain[i] - x[i] * back) * inverse;
                }
            },
        );
        grad
    }
}

impl<B: RmsNormOps, C: CheckpointStrategy> RmsNormOps for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let ((x, x_node), (gain, gain_node)) = (x.into_parts(), gain.into_parts());
        match RmsNormBackward.prepare::<C>([x_node, gain_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.clone(), gain.clone(), eps), B::rms_norm(x, gain, eps)),
            OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x, gain, eps)),
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: RmsNormOps> Backward<B, 2> for RmsNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, gain_node] = ops.parents;
        let (x, gain, eps) = ops.state;
        if let Some(node) = gain_node {
            grads.register::<B>(node.id, composed::gain_backward::<B>(grad.clone(), x.clone(), eps));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::rms_norm_backward(grad, x, gain, eps));
        }
    }
}

/// `x / √(mean(x²) + ε) · g` on the rows of x (`[n, width]`) with gain g (`[width]`) of x's dtype.
pub fn rms_norm(x: Tensor<2>, gain: Tensor<1>, eps: f64) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as RmsNormOps>::rms_norm(x.into_dispatch(), gain.into_dispatch(), eps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_same, computes, evaluate, random};
    use burn::tensor::{DType, Tolerance};

    fn composed(x: Tensor<2>, gain: Tensor<2>) -> Tensor<2> {
        let inverse = (x.clone() * x.clone()).mean_dim(1).add_scalar(1e-5).sqrt().recip();
        x * inverse * gain
    }

    #[test]
    fn fused_is_composed_with_every_gradient() {
        for (n, width) in [(1, 1), (3, 5), (70, 33), (129, 576)] {
            let inputs = [random(1, [n, width]), random(2, [1, width])];
            let fused = evaluate(&inputs, |t| rms_norm(t[0].clone(), t[1].clone().reshape([width]), 1e-5));
            assert_same(&fused, &evaluate(&inputs, |t| composed(t[0].clone(), t[1].clone())), 1e-4);
        }
    }

    #[test]
    fn gradients_are_the_slopes() {
        let inputs = [random(5, [3, 4]), random(6, [1, 4])];
        assert_finite_differences(&inputs, |t| rms_norm(t[0].clone(), t[1].clone().reshape([4]), 1e-5));
    }

    #[test]
    fn half_precision_is_computed_in_f32() {
        if !computes(DType::BF16) {
            return;
        }
        let (x, gain) = (random(3, [4, 64]) * 100.0, random(4, [1, 64]));
        let expected = composed(x.clone(), gain.clone()).into_data();
        let half = rms_norm(x.cast(DType::BF16), gain.reshape([64]).cast(DType::BF16), 1e-5);
        assert_eq!(half.dtype(), DType::BF16);
        half.cast(DType::F32).into_data().assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(0.02, 0.02));
    }
}
