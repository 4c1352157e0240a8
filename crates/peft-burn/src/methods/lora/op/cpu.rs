//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use fused_burn::flex::{self, FlexTensor, all_bf16, all_f32, as_common, contiguous, dims2, mat, values};
use fused_burn::matrix::{Mat, Product, product, sum_of_products};
use fused_burn::{BaseWeight, FlexWeight};

use super::{LoraOps, composed};

impl LoraOps for Flex {
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let base = FlexWeight::new(&weight, x.dtype()).filter(|_| all_f32(&[&a, &b]));
        let Some(base) = base else {
            return composed::lora_linear::<Self>(x, weight, a, b, scale, rounded);
        };
        let ([n, inp], [out, r]) = (dims2(&x), dims2(&b));
        let dtype = if rounded { x.dtype() } else { DType::F32 };
        let (x, a, b) = (contiguous(x), contiguous(a), contiguous(b));
        let x = mat(&x);
        let low = product(x, Mat::new(values(&a), r, inp).t());
        let update = Product::of(Mat::new(&low, n, r), Mat::new(values(&b), out, r).t()).times(scale);
        let y = sum_of_products(&[Product::of(x, base.mat().t()), update.added()]);
        (as_common(flex::tensor(y, [n, out]), dtype), flex::tensor(low, [n, r]))
    }

    fn lora_factors_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        low: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let common = |t: &FlexTensor| all_f32(&[t]) || all_bf16(&[t]);
        if !(common(&grad) && common(&x) && all_f32(&[&low, &b])) {
            return composed::lora_factors_backward::<Self>(grad, x, low, b, scale);
        }
        let ([n, inp], [out, r]) = (dims2(&x), dims2(&b));
        let (grad, x, low, b) = (contiguous(grad), contiguous(x), contiguous(low), contiguous(b));
        let (grad, x) = (mat(&grad), mat(&x));
        let low_grad = sum_of_products(&[Product::of(grad, Mat::new(values(&b), out, r)).times(scale)]);
        let a_grad = product(Mat::new(&low_grad, n, r).t(), x);
        // Its transpose, for which the larger factor is read as it lies.
        let b_grad = sum_of_products(&[Product::of(Mat::new(values(&low), n, r).t(), grad).times(scale)]);
        let b_grad = contiguous(flex::tensor(b_grad, [r, out]).transpose(0, 1));
        (flex::tensor(a_grad, [r, inp]), b_grad, flex::tensor(low_grad, [n, r]))
    }

    fn lora_input_backward(
        grad: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        low_grad: FloatTensor<Self>,
        a: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let precise = all_f32(&[&low_grad, &a]) && [DType::F32, weight.dtype()].contains(&grad.dtype());
        let base = FlexWeight::new(&weight, weight.dtype()).filter(|_| precise);
        let Some(base) = base else {
            return composed::lora_input_backward::<Self>(grad, weight, low_grad, a);
        };
        let ([n, _], [r, inp], dtype) = (dims2(&grad), dims2(&a), weight.dtype());
        let [grad, low_grad, a] = [grad, low_grad, a].map(contiguous);
        let x_grad = sum_of_products(&[
            Product::of(mat(&grad), base.mat()).rounded(),
            Product::of(Mat::new(values(&low_grad), n, r), Mat::new(values(&a), r, inp)).added(),
        ]);
        as_common(flex::tensor(x_grad, [n, inp]), dtype)
    }
}
