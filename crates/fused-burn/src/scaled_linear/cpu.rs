//! On the CPU.

use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;

use super::{ScaledProjectionOps, composed};
use crate::base_linear::{BaseWeight, FlexWeight};
use crate::columns::ColumnOps;
use crate::flex::{self, FlexTensor, all_f32, as_common, contiguous, dims2, mat, values};
use crate::matrix::{Product, scaled_sum_of_products};
use crate::precision::cast;

/// Whether a product that was scaled by `c` can be told from the result.
pub fn can_tell(c: &FlexTensor) -> bool {
    /// Far above where the result would lose digits, far below any factor that trains.
    const LEAST: f64 = 1e-12;
    c.clone().into_data().iter::<f64>().all(|c| c.abs() > LEAST)
}

impl ScaledProjectionOps for Flex {
    fn scaled_linear(
        x: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        c: FloatTensor<Self>,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !can_tell(&c) {
            return composed::scaled_linear::<Self>(x, weight, c, rounded);
        }
        let Some(base) = FlexWeight::new(&weight, x.dtype()).filter(|_| all_f32(&[&c])) else {
            let (y, _) = composed::scaled_linear::<Self>(x, weight, c, rounded);
            return (y.clone(), y);
        };
        let ([n, _], [out, _]) = (dims2(&x), weight.dims());
        let dtype = if rounded { x.dtype() } else { DType::F32 };
        let (x, c) = (contiguous(x), contiguous(c));
        let y = scaled_sum_of_products(&[Product::of(mat(&x), base.mat().t())], &values(&c)[..out]);
        let y = as_common(flex::tensor(y, [n, out]), dtype);
        (y.clone(), y)
    }

    /// `kept` is the result, or what was scaled where `can_tell` says that the result does not tell it.
    fn scale_backward(
        grad: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = c.dtype();
        let [grad, kept] = [grad, kept].map(|t| cast::<Self>(t, dtype));
        let (grad, sums) = Self::scale_columns_backward(grad, kept, c.clone());
        (grad, if can_tell(&c) { Self::float_div(sums, c) } else { sums })
    }
}
