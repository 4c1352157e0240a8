//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::{RopeOps, composed};
use crate::flex::{all_bf16, all_f32, contiguous, dims2, narrowed, owned, values, values_mut, widened};
use crate::rows::each_row;

impl RopeOps for Flex {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        head: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        if all_bf16(&[&x, &cos, &sin]) {
            return narrowed(Self::rope(widened(x), widened(cos), widened(sin), head, inverse));
        }
        if !all_f32(&[&x, &cos, &sin]) {
            return composed::rope::<Self>(x, cos, sin, head, inverse);
        }
        let ([_, width], [rows, half]) = (dims2(&x), dims2(&cos));
        let (mut x, cos, sin) = (owned(x), contiguous(cos), contiguous(sin));
        let (cos, sin) = (values(&cos), values(&sin));
        let sign = if inverse { -1.0 } else { 1.0 };
        each_row(
            values_mut(&mut x),
            width,
            #[inline(always)]
            |row, x| {
                let at = row % rows * half;
                let (cos, sin) = (&cos[at..][..half], &sin[at..][..half]);
                for head in x.chunks_exact_mut(head) {
                    let (first, rest) = head.split_at_mut(half);
                    let second = &mut rest[..half];
                    for i in 0..half {
                        let sin = sin[i] * sign;
                        (first[i], second[i]) =
                            (first[i] * cos[i] - second[i] * sin, second[i] * cos[i] + first[i] * sin);
                    }
                }
            },
        );
        x
    }
}
