//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use fused_burn::flex::{self, all_f32, as_common, contiguous, dims2, mat, values, widened};
use fused_burn::matrix::{Mat, Product, product, sum_of_products};
use fused_burn::rows::each_row;
use fused_burn::simd::sum;
use fused_burn::{BaseWeight, ColumnOps, FlexWeight};

use super::{VeraOps, composed};

/// Rows of `width` values, each row times its factor.
fn scaled_rows(values: &[f32], width: usize, factors: &[f32]) -> Vec<f32> {
    let mut out = flex::buffer(values.len());
    each_row(
        &mut out,
        width,
        #[inline(always)]
        |row, out| {
            let factor = factors[row];
            for (out, value) in out.iter_mut().zip(&values[row * width..]) {
                *out = value * factor;
            }
        },
    );
    out
}

impl VeraOps for Flex {
    fn vera_linear(
        x: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
        rounded: bool,
    ) -> FloatTensor<Self> {
        let base = FlexWeight::new(&weight, x.dtype()).filter(|_| all_f32(&[&low, &lambda_d, &b, &lambda_b]));
        let Some(base) = base else {
            return composed::vera_linear::<Self>(x, weight, [low, lambda_d, b, lambda_b], rounded);
        };
        let ([n, _], [out, r]) = (dims2(&x), dims2(&b));
        let dtype = if rounded { x.dtype() } else { DType::F32 };
        let (x, low) = (contiguous(x), contiguous(low));
        let [b, lambda_b] = [b, lambda_b].map(contiguous);
        let scaled = flex::tensor(scaled_rows(values(&b), r, values(&lambda_b)), [out, r]);
        let scaled = Self::scale_columns(scaled, lambda_d);
        let update = Product::of(mat(&low), mat(&scaled).t());
        let y = sum_of_products(&[Product::of(mat(&x), base.mat().t()), update.added()]);
        as_common(flex::tensor(y, [n, out]), dtype)
    }

    fn vera_backward(
        grad: FloatTensor<Self>,
        low: FloatTensor<Self>,
        lambda_d: FloatTensor<Self>,
        b: FloatTensor<Self>,
        lambda_b: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let grad = widened(grad);
        if !all_f32(&[&grad, &low, &lambda_d, &b, &lambda_b]) {
            return composed::vera_backward::<Self>(grad, low, lambda_d, b, lambda_b);
        }
        let ([n, r], [out, _]) = (dims2(&low), dims2(&b));
        let [grad, low, lambda_d, b, lambda_b] = [grad, low, lambda_d, b, lambda_b].map(contiguous);
        let slopes = product(mat(&grad).t(), mat(&low));
        let scaled = scaled_rows(values(&b), r, values(&lambda_b));
        let scaled_grad = product(mat(&grad), Mat::new(&scaled, out, r));
        let mut lambda_b_grad = flex::buffer(out);
        let (b, d) = (values(&b), values(&lambda_d));
        each_row(
            &mut lambda_b_grad,
            1,
            #[inline(always)]
            |row, grad| {
                let (slopes, b) = (&slopes[row * r..][..r], &b[row * r..][..r]);
                grad[0] = sum(
                    r,
                    #[inline(always)]
                    |k| slopes[k] * d[k] * b[k],
                );
            },
        );
        let (low_grad, lambda_d_grad) = Self::scale_columns_backward(flex::tensor(scaled_grad, [n, r]), low, lambda_d);
        (low_grad, lambda_d_grad, flex::tensor(lambda_b_grad, [out]))
    }
}
