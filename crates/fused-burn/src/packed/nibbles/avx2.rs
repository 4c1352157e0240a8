//! Eight values with two look-ups in a register.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, __m256i, _mm_cvtsi64_si128, _mm_srli_epi16, _mm_srli_si128, _mm_unpacklo_epi8, _mm256_blendv_ps,
    _mm256_castsi256_ps, _mm256_cvtepu8_epi32, _mm256_loadu_ps, _mm256_permutevar8x32_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
};

use super::{Nibbles, look_up};

/// Values whose codes are read at a time.
const CODES: usize = 16;

/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn single(n: &Nibbles<'_>, start: usize, out: &mut [f32]) {
    n.blocks(start, out, |scale, codes, out| {
        let all = n.values(scale);
        // SAFETY: there are two vectors of values.
        let values = unsafe { [_mm256_loadu_ps(all.as_ptr()), _mm256_loadu_ps(all.as_ptr().add(8))] };
        let (whole, rest) = out.as_chunks_mut::<CODES>();
        let (bytes, left) = codes.split_at(whole.len() * CODES / 2);
        for (out, bytes) in whole.iter_mut().zip(bytes.as_chunks::<{ CODES / 2 }>().0) {
            let both = _mm_cvtsi64_si128(i64::from_le_bytes(*bytes));
            let codes = _mm_unpacklo_epi8(_mm_srli_epi16::<4>(both), both);
            // SAFETY: `out` has two vectors of values.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), found(_mm256_cvtepu8_epi32(codes), values));
                let codes = _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(codes));
                _mm256_storeu_ps(out.as_mut_ptr().add(8), found(codes, values));
            }
        }
        look_up(&all, left, rest);
    });
}

#[inline]
#[target_feature(enable = "avx2")]
fn found(codes: __m256i, [lower, upper]: [__m256; 2]) -> __m256 {
    let (low, high) = (_mm256_permutevar8x32_ps(lower, codes), _mm256_permutevar8x32_ps(upper, codes));
    // The fourth bit says in which half of the table a value is.
    _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
}
