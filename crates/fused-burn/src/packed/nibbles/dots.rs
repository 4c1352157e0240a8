//! Products of a few rows with rows of codes, which are looked up in a register and never written to memory.
//!
//! A word of codes is shifted until the code that is wanted is the lowest, so that a vector of words gives every eighth value
//! (of bf16 every fourth). The rows that it is multiplied with are put into that order first.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, _mm256_add_ps, _mm256_dpbf16_ps, _mm256_loadu_si256, _mm256_permutexvar_epi16,
    _mm256_setzero_ps, _mm256_srli_epi16, _mm256_storeu_ps, _mm512_castps_si512, _mm512_cvtepi32_epi16,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_mov_ps, _mm512_mul_ps, _mm512_permutexvar_ps,
    _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_srli_epi32,
};
use std::sync::LazyLock;

use burn::tensor::DType;
use half::bf16;

use super::super::rounding::rounded;
use super::{Nibbles, Way};
use crate::simd::narrow;

/// Rows that are multiplied in one pass over the codes.
const ROWS: usize = 4;
/// Values of a step in f32: those of 16 words of 32 bits.
const SINGLE: usize = 128;
/// Values of a step in bf16: those of 16 words of 16 bits.
const HALF: usize = 64;

/// A few rows in the order in which codes are looked up.
#[derive(Debug)]
pub(crate) enum Ordered {
    Single(Vec<Vec<f32>>),
    Half(Vec<Vec<bf16>>),
}

impl Ordered {
    /// The rows, for codes from multiples of `step` on in blocks of `block` values (a power of two) that are rounded to `dtype`; `None` if this
    /// processor or these sizes are not what the loops here are written for. Rows in f32 for values in bf16 must be those of
    /// bf16.
    pub(in crate::packed) fn new<'a>(
        rows: impl Iterator<Item = &'a [f32]>,
        [block, step]: [usize; 2],
        dtype: DType,
    ) -> Option<Self> {
        static BF16: LazyLock<bool> =
            LazyLock::new(|| is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512bf16"));
        let size = if dtype == DType::BF16 { HALF } else { SINGLE };
        let rows: Vec<&[f32]> = rows.collect();
        let fits = Way::best() == Way::Avx512
            && block.is_power_of_two()
            && block >= 64
            && step.is_multiple_of(size)
            && rows.iter().all(|row| row.len().is_multiple_of(size));
        match dtype {
            DType::F32 if fits => {
                Some(Self::Single(rows.into_iter().map(|row| ordered::<8, f32>(row, |v| v)).collect()))
            }
            DType::BF16 if fits && *BF16 => {
                Some(Self::Half(rows.into_iter().map(|row| ordered::<4, bf16>(row, narrow)).collect()))
            }
            _ => None,
        }
    }
}

/// Steps of 16 words of `N` values each: the first value of each word, then the second ones, and so on.
fn ordered<const N: usize, T>(row: &[f32], convert: impl Fn(f32) -> T) -> Vec<T> {
    let mut out = Vec::with_capacity(row.len());
    for step in row.chunks_exact(16 * N) {
        let words = step.as_chunks::<N>().0;
        for i in 0..N {
            out.extend(words.iter().map(|word| convert(word[i])));
        }
    }
    out
}

impl Nibbles<'_> {
    /// Writes the product of each row with the values from `start` on to `sums`.
    pub fn dots(&self, rows: &Ordered, start: usize, sums: &mut [f32]) {
        // SAFETY: rows are in order only where the processor has the features, and steps are whole.
        unsafe {
            match rows {
                Ordered::Single(rows) => {
                    for (rows, sums) in rows.chunks(ROWS).zip(sums.chunks_mut(ROWS)) {
                        match rows {
                            [a] => single(self, [a], start, sums),
                            [a, b] => single(self, [a, b], start, sums),
                            [a, b, c] => single(self, [a, b, c], start, sums),
                            [a, b, c, d] => single(self, [a, b, c, d], start, sums),
                            _ => {}
                        }
                    }
                }
                Ordered::Half(rows) => {
                    for (rows, sums) in rows.chunks(ROWS).zip(sums.chunks_mut(ROWS)) {
                        match rows {
                            [a] => half(self, [a], start, sums),
                            [a, b] => half(self, [a, b], start, sums),
                            [a, b, c] => half(self, [a, b, c], start, sums),
                            [a, b, c, d] => half(self, [a, b, c, d], start, sums),
                            _ => {}
                        }
                    }
                }
            }
        }
    }
}

/// # Safety
/// The processor must have AVX-512 F. Rows must be of one length, whole steps, and as long as there are codes from `start` on.
#[target_feature(enable = "avx512f")]
unsafe fn single<const R: usize>(n: &Nibbles<'_>, rows: [&Vec<f32>; R], start: usize, sums: &mut [f32]) {
    // SAFETY: the table is a vector.
    let table = unsafe { _mm512_loadu_ps(n.table.as_ptr()) };
    let mut totals = [_mm512_setzero_ps(); R];
    let (count, shift) = (rows[0].len() / SINGLE, n.block.trailing_zeros());
    let codes = n.codes[start / 2..][..count * SINGLE / 2].as_chunks::<{ SINGLE / 2 }>().0;
    for (step, bytes) in codes.iter().enumerate() {
        // SAFETY: 64 bytes are read.
        let words = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        // The words' first half is of one block, the second of the same or the next one.
        let at = start + step * SINGLE;
        let (first, second) = (n.scales.of(at >> shift), n.scales.of((at + SINGLE / 2) >> shift));
        let scales = _mm512_mask_mov_ps(_mm512_set1_ps(first), 0xff00, _mm512_set1_ps(second));
        let mut parts = [_mm512_setzero_ps(); R];
        let mut add = |i: usize, values: __m512| {
            for (part, row) in parts.iter_mut().zip(rows) {
                // SAFETY: a row has a vector for each of a word's eight codes.
                let x = unsafe { _mm512_loadu_ps(row.as_ptr().add(step * SINGLE + 16 * i)) };
                *part = _mm512_fmadd_ps(values, x, *part);
            }
        };
        add(0, _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(words), table));
        add(1, _mm512_permutexvar_ps(words, table));
        add(2, _mm512_permutexvar_ps(_mm512_srli_epi32::<12>(words), table));
        add(3, _mm512_permutexvar_ps(_mm512_srli_epi32::<8>(words), table));
        add(4, _mm512_permutexvar_ps(_mm512_srli_epi32::<20>(words), table));
        add(5, _mm512_permutexvar_ps(_mm512_srli_epi32::<16>(words), table));
        add(6, _mm512_permutexvar_ps(_mm512_srli_epi32::<28>(words), table));
        add(7, _mm512_permutexvar_ps(_mm512_srli_epi32::<24>(words), table));
        for (total, part) in totals.iter_mut().zip(parts) {
            *total = _mm512_fmadd_ps(part, scales, *total);
        }
    }
    for (sum, total) in sums.iter_mut().zip(totals) {
        *sum = _mm512_reduce_add_ps(total);
    }
}

/// # Safety
/// As [`single`], with AVX-512 BW, VL and BF16 too.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn half<const R: usize>(n: &Nibbles<'_>, rows: [&Vec<bf16>; R], start: usize, sums: &mut [f32]) {
    // SAFETY: the table is a vector.
    let table = unsafe { _mm512_loadu_ps(n.table.as_ptr()) };
    let mut totals = [[_mm256_setzero_ps(); 4]; R];
    let (count, shift) = (rows[0].len() / HALF, n.block.trailing_zeros());
    let codes = n.codes[start / 2..][..count * HALF / 2].as_chunks::<{ HALF / 2 }>().0;
    for (step, bytes) in codes.iter().enumerate() {
        // SAFETY: 32 bytes are read.
        let words = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let scale = n.scales.of((start + step * HALF) >> shift);
        let values = rounded(_mm512_mul_ps(table, _mm512_set1_ps(scale)), DType::BF16);
        let values = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(values)));
        let mut add = |i: usize, codes: __m256i| {
            let values = _mm256_permutexvar_epi16(codes, values);
            for (totals, row) in totals.iter_mut().zip(rows) {
                // SAFETY: a row has a vector for each of a word's four codes; vectors of one size are the same bits.
                unsafe {
                    let x = _mm256_loadu_si256(row.as_ptr().add(step * HALF + 16 * i).cast());
                    let [values, x] = [values, x].map(|v| std::mem::transmute::<__m256i, __m256bh>(v));
                    totals[i] = _mm256_dpbf16_ps(totals[i], values, x);
                }
            }
        };
        add(0, _mm256_srli_epi16::<4>(words));
        add(1, words);
        add(2, _mm256_srli_epi16::<12>(words));
        add(3, _mm256_srli_epi16::<8>(words));
    }
    for (sum, [a, b, c, d]) in sums.iter_mut().zip(totals) {
        let mut lanes = [0.0f32; 8];
        // SAFETY: the array is a vector.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d))) };
        *sum = lanes.iter().sum();
    }
}
