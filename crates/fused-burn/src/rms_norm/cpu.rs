//! On the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

use super::{RmsNormOps, composed};
use crate::flex::{self, all_bf16, all_f32, contiguous, dims2, narrowed, owned, values, values_mut, widened};
use crate::rows::each_row;
use crate::simd;

#[inline(always)]
fn inverse(x: &[f32], eps: f32) -> f32 {
    let mean = simd::sum(
        x.len(),
        #[inline(always)]
        |i| x[i] * x[i],
    ) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

/// The gain with its offset, in order.
fn with_offset(gain: FloatTensor<Flex>, offset: f64) -> FloatTensor<Flex> {
    let gain = contiguous(gain);
    if offset == 0.0 {
        return gain;
    }
    let shape = gain.shape();
    flex::tensor(values(&gain).iter().map(|g| g + offset as f32).collect(), shape)
}

impl RmsNormOps for Flex {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64, offset: f64) -> FloatTensor<Self> {
        if all_bf16(&[&x, &gain]) {
            return narrowed(Self::rms_norm(widened(x), widened(gain), eps, offset));
        }
        if !all_f32(&[&x, &gain]) {
            return composed::rms_norm::<Self>(x, gain, eps, offset);
        }
        let [n, width] = dims2(&x);
        let (x, gain) = (contiguous(x), with_offset(gain, offset));
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
        offset: f64,
    ) -> FloatTensor<Self> {
        if all_bf16(&[&grad, &x, &gain]) {
            return narrowed(Self::rms_norm_backward(widened(grad), widened(x), widened(gain), eps, offset));
        }
        if !all_f32(&[&grad, &x, &gain]) {
            return composed::rms_norm_backward::<Self>(grad, x, gain, eps, offset);
        }
        let [_, width] = dims2(&x);
        let (x, gain, mut grad) = (contiguous(x), with_offset(gain, offset), owned(grad));
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
