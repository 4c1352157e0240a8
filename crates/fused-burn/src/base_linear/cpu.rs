//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use rayon::prelude::*;

use super::{BaseWeight, BaseWeightOps, composed};
use crate::flex::{self, FlexTensor, as_common, contiguous, dense, dims2, mat, values};
use crate::matrix::{Mat, product};
use crate::packed::{PackedLayout, PackedView};
use crate::precision::cast;

/// A frozen weight of f32 or bf16 in host memory, ready to be multiplied with.
#[derive(Debug)]
pub struct FlexWeight(BaseWeight<Flex>);

impl FlexWeight {
    /// `weight`, if a product of it with rows of `dtype` is one that the CPU's loops are written for.
    pub fn new(weight: &BaseWeight<Flex>, dtype: DType) -> Option<Self> {
        if weight.dtype() != dtype || ![DType::F32, DType::BF16].contains(&dtype) {
            return None;
        }
        Some(Self(match weight.clone() {
            BaseWeight::Dense(weight) => BaseWeight::Dense(dense(weight)),
            BaseWeight::Packed { codes, .. } if codes.dtype() != DType::U8 => return None,
            packed => packed,
        }))
    }

    /// Its values: `[out, in]`.
    pub fn mat(&self) -> Mat<'_> {
        match &self.0 {
            BaseWeight::Dense(weight) => mat(weight),
            BaseWeight::Packed { codes, scales, layout } => Mat::packed(view(codes, scales, *layout)),
        }
    }
}

/// A packed weight of bytes.
fn view<'a>(codes: &'a FlexTensor, scales: &'a FlexTensor, layout: PackedLayout) -> PackedView<'a> {
    let scales = values(scales).get(..layout.num_scales()).unwrap_or_default();
    PackedView { codes: codes.as_slice::<u8>().unwrap_or_default(), scales, layout }
}

impl BaseWeightOps for Flex {
    fn base_project(x: FloatTensor<Self>, weight: BaseWeight<Self>) -> FloatTensor<Self> {
        let Some(kept) = FlexWeight::new(&weight, x.dtype()) else {
            return composed::base_project::<Self>(x, weight);
        };
        let ([n, _], [out, _], dtype) = (dims2(&x), weight.dims(), x.dtype());
        let x = contiguous(x);
        as_common(flex::tensor(product(mat(&x), kept.mat().t()), [n, out]), dtype)
    }

    fn base_project_backward(grad: FloatTensor<Self>, weight: BaseWeight<Self>) -> FloatTensor<Self> {
        let Some(kept) = FlexWeight::new(&weight, grad.dtype()) else {
            return composed::base_project_backward::<Self>(grad, weight);
        };
        let ([n, _], [_, inp], dtype) = (dims2(&grad), weight.dims(), grad.dtype());
        let grad = contiguous(grad);
        as_common(flex::tensor(product(mat(&grad), kept.mat()), [n, inp]), dtype)
    }

    fn weight_rows(weight: BaseWeight<Self>, start: usize, count: usize) -> FloatTensor<Self> {
        match &weight {
            BaseWeight::Packed { codes, scales, layout } if codes.dtype() == DType::U8 => {
                const PART: usize = 1 << 14;
                let view = view(codes, scales, *layout);
                let mut out = flex::buffer(count * layout.cols);
                let decode = |(i, out): (usize, &mut [f32])| view.decode(start * layout.cols + i * PART, out);
                out.par_chunks_mut(PART).enumerate().for_each(decode);
                in_dtype(flex::tensor(out, [count, layout.cols]), layout.dtype)
            }
            _ => composed::weight_rows::<Self>(weight, start, count),
        }
    }

    fn weight_select(weight: BaseWeight<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let BaseWeight::Packed { codes, scales, layout } = &weight else {
            return composed::weight_select::<Self>(weight, ids);
        };
        if codes.dtype() != DType::U8 {
            return composed::weight_select::<Self>(weight, ids);
        }
        let view = view(codes, scales, *layout);
        let ids: Vec<usize> = ids.into_data().iter::<i64>().map(|id| id as usize).collect();
        let mut out = flex::buffer(ids.len() * layout.cols);
        for (id, out) in ids.iter().zip(out.chunks_mut(layout.cols.max(1))) {
            view.decode(id * layout.cols, out);
        }
        in_dtype(flex::tensor(out, [ids.len(), layout.cols]), layout.dtype)
    }
}

fn in_dtype(values: FlexTensor, dtype: DType) -> FlexTensor {
    if dtype == DType::BF16 { flex::narrowed(values) } else { cast::<Flex>(values, dtype) }
}
