//! Sixteen values, or 32 of bf16, with one look-up in a register.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, __m512, __m512i, _mm_cvtsi64_si128, _mm_srli_epi16, _mm_unpacklo_epi8, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_srli_epi16, _mm256_unpackhi_epi8,
    _mm256_unpacklo_epi8, _mm512_broadcast_i64x4, _mm512_castps_si512, _mm512_cvtepi32_epi16, _mm512_cvtepu8_epi16,
    _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_permutexvar_ps,
    _mm512_set1_ps, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_storeu_si512,
};

use burn::tensor::DType;
use half::bf16;

use super::super::rounding::rounded;
use super::{Nibbles, look_up};

/// Values of a vector.
const LANES: usize = 16;
/// Values whose codes are read at a time.
const CODES: usize = 64;

/// # Safety
/// The processor must have AVX-512 F and BW, and AVX2.
#[target_feature(enable = "avx512f,avx512bw,avx2")]
pub(super) unsafe fn single(n: &Nibbles<'_>, start: usize, out: &mut [f32]) {
    // SAFETY: the table is a vector.
    let table = unsafe { _mm512_loadu_ps(n.table.as_ptr()) };
    n.blocks(start, out, |scale, codes, out| {
        let values = rounded(_mm512_mul_ps(table, _mm512_set1_ps(scale)), n.dtype);
        let (whole, rest) = out.as_chunks_mut::<CODES>();
        let (bytes, left) = codes.split_at(whole.len() * CODES / 2);
        for (out, bytes) in whole.iter_mut().zip(bytes.as_chunks::<{ CODES / 2 }>().0) {
            let (even, odd) = spread(bytes);
            let parts = [
                _mm256_castsi256_si128(even),
                _mm256_castsi256_si128(odd),
                _mm256_extracti128_si256::<1>(even),
                _mm256_extracti128_si256::<1>(odd),
            ];
            for (i, part) in parts.into_iter().enumerate() {
                let found = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(part), values);
                // SAFETY: `out` has four vectors of values.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(i * LANES), found) };
            }
        }
        let (vectors, last) = rest.as_chunks_mut::<LANES>();
        let (bytes, left) = left.split_at(vectors.len() * LANES / 2);
        for (out, bytes) in vectors.iter_mut().zip(bytes.as_chunks::<{ LANES / 2 }>().0) {
            let both = _mm_cvtsi64_si128(i64::from_le_bytes(*bytes));
            let codes = _mm_unpacklo_epi8(_mm_srli_epi16::<4>(both), both);
            let found = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), values);
            // SAFETY: `out` is a vector of values.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), found) };
        }
        if !last.is_empty() {
            look_up(&array(values), left, last);
        }
    });
}

/// # Safety
/// As [`single`].
#[target_feature(enable = "avx512f,avx512bw,avx2")]
pub(super) unsafe fn half(n: &Nibbles<'_>, start: usize, out: &mut [bf16]) {
    // SAFETY: the table is a vector.
    let table = unsafe { _mm512_loadu_ps(n.table.as_ptr()) };
    n.blocks(start, out, |scale, codes, out| {
        let values = rounded(_mm512_mul_ps(table, _mm512_set1_ps(scale)), DType::BF16);
        let upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(values)));
        // Twice, since five bits of a code count.
        let twice = _mm512_broadcast_i64x4(upper);
        let (whole, rest) = out.as_chunks_mut::<CODES>();
        let (bytes, left) = codes.split_at(whole.len() * CODES / 2);
        for (out, bytes) in whole.iter_mut().zip(bytes.as_chunks::<{ CODES / 2 }>().0) {
            let (even, odd) = spread(bytes);
            let (first, last) =
                (_mm256_permute2x128_si256::<0x20>(even, odd), _mm256_permute2x128_si256::<0x31>(even, odd));
            // SAFETY: `out` has two vectors of values.
            unsafe {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), found(first, twice));
                _mm512_storeu_si512(out.as_mut_ptr().add(2 * LANES).cast(), found(last, twice));
            }
        }
        if !rest.is_empty() {
            look_up(&array(values).map(crate::simd::narrow), left, rest);
        }
    });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn found(codes: __m256i, values: __m512i) -> __m512i {
    _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(codes), values)
}

/// The codes of 64 values, a byte each: 0 to 15 and 32 to 47, then 16 to 31 and 48 to 63. Only their lowest four bits count.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(bytes: &[u8; CODES / 2]) -> (__m256i, __m256i) {
    // SAFETY: 32 bytes are read.
    let both = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
    let high = _mm256_srli_epi16::<4>(both);
    (_mm256_unpacklo_epi8(high, both), _mm256_unpackhi_epi8(high, both))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn array(values: __m512) -> [f32; LANES] {
    let mut array = [0.0; LANES];
    // SAFETY: the array is a vector.
    unsafe { _mm512_storeu_ps(array.as_mut_ptr(), values) };
    array
}
