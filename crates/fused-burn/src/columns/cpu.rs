//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;

use super::{ColumnOps, composed};
use crate::flex::{self, all_f32, contiguous, dims2, narrowed, owned, values, values_mut, widened};
use crate::rows::{each_row, each_row_summing};

impl ColumnOps for Flex {
    fn scale_columns(x: FloatTensor<Self>, c: FloatTensor<Self>) -> FloatTensor<Self> {
        if x.dtype() == DType::BF16 && c.dtype() == DType::F32 {
            return narrowed(Self::scale_columns(widened(x), c));
        }
        if !all_f32(&[&x, &c]) {
            return composed::scale::<Self>(x, c);
        }
        let [n, width] = dims2(&x);
        let (x, c) = (contiguous(x), contiguous(c));
        let (x, c) = (values(&x), &values(&c)[..width]);
        let mut out = flex::buffer(n * width);
        each_row(
            &mut out,
            width,
            #[inline(always)]
            |row, out| {
                for ((y, x), c) in out.iter_mut().zip(&x[row * width..]).zip(c) {
                    *y = x * c;
                }
            },
        );
        flex::tensor(out, [n, width])
    }

    fn scale_columns_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if grad.dtype() == DType::BF16 && c.dtype() == DType::F32 {
            let (x_grad, c_grad) = Self::scale_columns_backward(widened(grad), widened(x), c);
            return (narrowed(x_grad), c_grad);
        }
        if !all_f32(&[&grad, &x, &c]) {
            let x_grad = composed::scale::<Self>(grad.clone(), c.clone());
            return (x_grad, composed::factor_grad::<Self>(grad, x, c));
        }
        let [_, width] = dims2(&x);
        let (mut grad, x, c) = (owned(grad), contiguous(x), contiguous(c));
        let (x, c) = (values(&x), &values(&c)[..width]);
        let c_grad = each_row_summing(
            values_mut(&mut grad),
            width,
            #[inline(always)]
            |row, grad, sums| {
                for (((g, x), c), sum) in grad.iter_mut().zip(&x[row * width..]).zip(c).zip(sums) {
                    *sum += *g * x;
                    *g *= c;
                }
            },
        );
        (grad, flex::tensor(c_grad, [width]))
    }
}
