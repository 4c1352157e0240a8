//! Rounding decoded values.

use burn::tensor::DType;
use half::f16;

use crate::simd::{narrow, widen};

/// Rounds values to `dtype`.
#[inline(always)]
pub(super) fn round(values: &mut [f32], dtype: DType) {
    match dtype {
        DType::BF16 => values.iter_mut().for_each(|v| *v = widen(narrow(*v))),
        DType::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        _ => {}
    }
}
