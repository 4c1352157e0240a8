//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

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
