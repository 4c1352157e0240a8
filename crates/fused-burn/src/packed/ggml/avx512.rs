//! Products of a few rows with rows of blocks, a part of a block in two vectors of AVX-512.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm256_set1_epi16, _mm512_add_ps, _mm512_and_si512, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_or_epi32,
    _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_srli_epi32, _mm512_sub_epi32, _mm512_sub_ps,
};
use std::sync::LazyLock;

use burn::tensor::DType;

use super::super::rounding::rounded;
use super::block;
use super::block::{Block, PART};
use super::k::{Q4_K, Q5_K, Q6_K};
use super::small::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// Whether this processor has what the functions here need.
pub(super) fn is_here() -> bool {
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
    });
    *FOUND
}

/// The same values as those of [`Block::part`], rounded to a dtype, in two vectors.
pub(super) trait Vectors: Block {
    /// Values worked out once for all parts of a block.
    type Ready;

    /// # Safety
    /// The processor must have what [`is_here`] asks for; `b` is a block.
    unsafe fn ready(b: &[u8]) -> Self::Ready;

    /// # Safety
    /// As [`Self::ready`]; `i` is below [`Block::PARTS`].
    unsafe fn vectors(b: &[u8], ready: &Self::Ready, i: usize, dtype: DType) -> [__m512; 2];
}

/// The products of rows with the values of parts from `start` on.
///
/// # Safety
/// The processor must have what [`is_here`] asks for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn parts<B: Vectors, const R: usize>(
    codes: &[u8],
    dtype: DType,
    start: usize,
    rows: [&[f32]; R],
) -> [f32; R] {
    let rows = rows.map(|row| row.as_chunks::<PART>().0);
    let (count, mut at, mut done) = (rows[0].len(), start / PART, 0);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    while done < count {
        let first = at % B::PARTS;
        let own = (B::PARTS - first).min(count - done);
        let block = block::<B>(codes, at / B::PARTS);
        // SAFETY: the processor has the features.
        let ready = unsafe { B::ready(block) };
        let mut add = |part: usize| {
            // SAFETY: the processor has the features; the part is one of the block's.
            let [low, high] = unsafe { B::vectors(block, &ready, part, dtype) };
            for ([a, b], row) in sums.iter_mut().zip(rows) {
                let x = &row[done + part - first];
                // SAFETY: a part is two vectors.
                let [x, y] = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(PART / 2))] };
                (*a, *b) = (_mm512_fmadd_ps(x, low, *a), _mm512_fmadd_ps(y, high, *b));
            }
        };
        if own == B::PARTS && own > 1 {
            // Two parts that share bytes, which are then read once.
            for pair in 0..B::PARTS / 2 {
                add(2 * pair);
                add(2 * pair + 1);
            }
        } else {
            (first..first + own).for_each(add);
        }
        (at, done) = (at + own, done + own);
    }
    sums.map(|[a, b]| _mm512_reduce_add_ps(_mm512_add_ps(a, b)))
}

/// The f16 at `at` in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn half(b: &[u8], at: usize) -> __m512 {
    _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes([b[at], b[at + 1]])))
}

/// 16 bytes from `at` on, each in a lane of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn lanes(b: &[u8], at: usize) -> __m512i {
    let bytes: &[u8] = &b[at..][..16];
    // SAFETY: 16 bytes are read.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Of 16 bytes from `at` on the lower halves, and the upper ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn halves(b: &[u8], at: usize) -> [__m512i; 2] {
    let bytes = lanes(b, at);
    [_mm512_and_si512(bytes, _mm512_set1_epi32(15)), _mm512_srli_epi32::<4>(bytes)]
}

/// `codes` with 16 more where a bit of `bits` is set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn fifth(codes: __m512i, bits: u16) -> __m512i {
    _mm512_mask_or_epi32(codes, bits, codes, _mm512_set1_epi32(16))
}

/// `scale * code + least`, rounded twice, as everywhere else.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn scaled(codes: __m512i, scale: __m512, least: __m512) -> __m512 {
    _mm512_add_ps(_mm512_mul_ps(scale, _mm512_cvtepi32_ps(codes)), least)
}

/// The fifth bits of 32 codes.
#[inline(always)]
fn fifth_bits(b: &[u8], at: usize) -> [u16; 2] {
    [u16::from_le_bytes([b[at], b[at + 1]]), u16::from_le_bytes([b[at + 2], b[at + 3]])]
}

impl Vectors for Q8_0 {
    type Ready = ();

    unsafe fn ready(_: &[u8]) {}

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn vectors(b: &[u8], (): &(), _: usize, dtype: DType) -> [__m512; 2] {
        let d = half(b, 0);
        [2, 18].map(|at| {
            let codes: &[u8] = &b[at..][..16];
            // SAFETY: 16 bytes are read.
            let codes = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) });
            rounded(_mm512_mul_ps(_mm512_cvtepi32_ps(codes), d), dtype)
        })
    }
}

impl Vectors for Q4_0 {
    type Ready = ();

    unsafe fn ready(_: &[u8]) {}

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn vectors(b: &[u8], (): &(), _: usize, dtype: DType) -> [__m512; 2] {
        const VALUES: [f32; 16] =
            [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        // SAFETY: the table is a vector.
        let table = _mm512_mul_ps(half(b, 0), unsafe { _mm512_loadu_ps(VALUES.as_ptr()) });
        let table = rounded(table, dtype);
        let bytes = lanes(b, 2);
        // The lower four bits of a lane are looked up.
        [bytes, _mm512_srli_epi32::<4>(bytes)].map(|codes| _mm512_permutexvar_ps(codes, table))
    }
}

impl Vectors for Q4_1 {
    type Ready = ();

    unsafe fn ready(_: &[u8]) {}

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn vectors(b: &[u8], (): &(), _: usize, dtype: DType) -> [__m512; 2] {
        let (d, min) = (half(b, 0), half(b, 2));
        halves(b, 4).map(|codes| rounded(scaled(codes, d, min), dtype))
    }
}

impl Vectors for Q5_0 {
    type Ready = ();

    unsafe fn ready(_: &[u8]) {}

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn vectors(b: &[u8], (): &(), _: usize, dtype: DType) -> [__m512; 2] {
        let (d, [low, high], [first, second]) = (half(b, 0), halves(b, 6), fifth_bits(b, 2));
        [fifth(low, first), fifth(high, second)]
            .map(|codes| _mm512_sub_epi32(codes, _mm512_set1_epi32(16)))
            .map(|codes| rounded(_mm512_mul_ps(d, _mm512_cvtepi32_ps(codes)), dtype))
    }
}

impl Vectors for Q5_1 {
    type Ready = ();

    unsafe fn ready(_: &[u8]) {}

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn vectors(b: &[u8], (): &(), _: usize, dtype: DType) -> [__m512; 2] {
        let (d, min, [low, high], [first, second]) = (half(b, 0), half(b, 2), halves(b, 8), fifth_bits(b, 4));
        [fifth(low, first), fifth(high, second)].map(|codes| rounded(scaled(codes, d, min), dtype))
    }
}

impl Vectors for Q4_K {
    type Ready = Self::Head;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn ready(b: &[u8]) -> Self::Ready {
        Self::head(b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn vectors(b: &[u8], [scales, minima]: &Self::Ready, i: usize, dtype: DType) -> [__m512; 2] {
        const CODES: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
        // What each code stands for in this part. The lower four bits of a lane are looked up.
        // SAFETY: the table is a vector.
        let table = _mm512_mul_ps(_mm512_set1_ps(scales[i]), unsafe { _mm512_loadu_ps(CODES.as_ptr()) });
        let table = rounded(_mm512_sub_ps(table, _mm512_set1_ps(minima[i])), dtype);
        let at = 16 + i / 2 * PART;
        [at, at + 16].map(|at| {
            let bytes = lanes(b, at);
            let codes = if i.is_multiple_of(2) { bytes } else { _mm512_srli_epi32::<4>(bytes) };
            _mm512_permutexvar_ps(codes, table)
        })
    }
}

/// 16 codes from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn single(codes: &[i8; 256], at: usize) -> __m512 {
    let codes: &[i8] = &codes[at..][..16];
    // SAFETY: 16 bytes are read.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) }))
}

impl Vectors for Q5_K {
    /// Scales, minima, and the codes put together: many in a vector of bytes.
    type Ready = (Self::Head, [i8; 256]);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn ready(b: &[u8]) -> Self::Ready {
        let mut codes = [0; 256];
        let high = &b[16..48];
        for (pair, codes) in codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let low = &b[48 + pair * PART..][..PART];
            let bit = |i: usize, part: usize| (high[i] >> part & 1) << 4;
            for i in 0..PART {
                codes[i] = (low[i] & 15 | bit(i, 2 * pair)) as i8;
                codes[i + PART] = (low[i] >> 4 | bit(i, 2 * pair + 1)) as i8;
            }
        }
        (Self::head(b), codes)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn vectors(_: &[u8], ([scales, minima], codes): &Self::Ready, i: usize, dtype: DType) -> [__m512; 2] {
        let (scale, least) = (_mm512_set1_ps(scales[i]), _mm512_set1_ps(minima[i]));
        [i * PART, i * PART + 16]
            .map(|at| rounded(_mm512_sub_ps(_mm512_mul_ps(scale, single(codes, at)), least), dtype))
    }
}

impl Vectors for Q6_K {
    /// Scales, and the codes put together.
    type Ready = (Self::Head, [i8; 256]);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn ready(b: &[u8]) -> Self::Ready {
        let mut codes = [0; 256];
        for (upper, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (low, high) = (&b[upper * 64..][..64], &b[128 + upper * PART..][..PART]);
            for i in 0..PART {
                let (first, second, top) = (low[i], low[i + PART], high[i]);
                let code = |four: u8, two: u8| (four | (two & 3) << 4) as i8 - 32;
                codes[i] = code(first & 15, top);
                codes[i + PART] = code(second & 15, top >> 2);
                codes[i + 2 * PART] = code(first >> 4, top >> 4);
                codes[i + 3 * PART] = code(second >> 4, top >> 6);
            }
        }
        (Self::head(b), codes)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn vectors(_: &[u8], (scales, codes): &Self::Ready, i: usize, dtype: DType) -> [__m512; 2] {
        [2 * i, 2 * i + 1].map(|at| rounded(_mm512_mul_ps(_mm512_set1_ps(scales[at]), single(codes, 16 * at)), dtype))
    }
}
