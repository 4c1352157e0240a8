//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use fused_burn::flex::{self, all_f32, as_common, contiguous, dims2, mat, values};
use fused_burn::matrix::{Mat, Product, product, scaled_sum_of_products};
use fused_burn::{BaseWeight, FlexWeight, can_tell};

use super::{DoraOps, composed};

impl DoraOps for Flex {
    fn dora_linear(
        x: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !can_tell(&c) {
            return composed::dora_linear::<Self>(x, weight, a, b, c, scale, rounded);
        }
        let base = FlexWeight::new(&weight, x.dtype()).filter(|_| all_f32(&[&a, &b, &c]));
        let Some(base) = base else {
            let (y, low, _) = composed::dora_linear::<Self>(x, weight, a, b, c, scale, rounded);
            return (y.clone(), low, y);
        };
        let ([n, inp], [out, r]) = (dims2(&x), dims2(&b));
        let dtype = if rounded { x.dtype() } else { DType::F32 };
        let (x, a, b, c) = (contiguous(x), contiguous(a), contiguous(b), contiguous(c));
        let x = mat(&x);
        let low = product(x, Mat::new(values(&a), r, inp).t());
        let update = Product::of(Mat::new(&low, n, r), Mat::new(values(&b), out, r).t()).times(scale);
        let y = scaled_sum_of_products(&[Product::of(x, base.mat().t()), update.added()], &values(&c)[..out]);
        let y = as_common(flex::tensor(y, [n, out]), dtype);
        (y.clone(), flex::tensor(low, [n, r]), y)
    }
}
