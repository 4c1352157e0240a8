//! Rounding decoded values.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtph_ps,
    _mm512_cvtps_ph, _mm512_set1_epi32, _mm512_srli_epi32,
};

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

/// Finite values rounded to `dtype`, of two nearest ones to the even one.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn rounded(values: __m512, dtype: DType) -> __m512 {
    match dtype {
        DType::BF16 => {
            let bits = _mm512_castps_si512(values);
            let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
            _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
        }
        DType::F16 => _mm512_cvtph_ps(_mm512_cvtps_ph::<0>(values)),
        _ => values,
    }
}
