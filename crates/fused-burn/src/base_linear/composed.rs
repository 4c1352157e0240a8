//! In terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::{FloatTensor, IntTensor};

use super::{BaseWeight, BaseWeightOps};
use crate::linear::ProjectionOps;
use crate::packed;

pub(super) fn weight_rows<B: ProjectionOps>(weight: BaseWeight<B>, start: usize, count: usize) -> FloatTensor<B> {
    match weight {
        BaseWeight::Dense(weight) => {
            let all = burn::tensor::Slice::from(..);
            B::float_slice(weight, &[burn::tensor::Slice::from(start..start + count), all])
        }
        BaseWeight::Packed { codes, scales, layout } => packed::rows::<B>(codes, scales, layout, [start, count]),
    }
}

fn dense<B: BaseWeightOps>(weight: BaseWeight<B>) -> FloatTensor<B> {
    match weight {
        BaseWeight::Dense(weight) => weight,
        packed => {
            let [rows, _] = packed.dims();
            B::weight_rows(packed, 0, rows)
        }
    }
}

pub(super) fn base_project<B: BaseWeightOps>(x: FloatTensor<B>, weight: BaseWeight<B>) -> FloatTensor<B> {
    B::project(x, dense::<B>(weight))
}

pub(super) fn base_project_backward<B: BaseWeightOps>(grad: FloatTensor<B>, weight: BaseWeight<B>) -> FloatTensor<B> {
    B::project_backward(grad, dense::<B>(weight))
}

pub(super) fn weight_select<B: BaseWeightOps>(weight: BaseWeight<B>, ids: IntTensor<B>) -> FloatTensor<B> {
    B::float_select(dense::<B>(weight), 0, ids)
}
