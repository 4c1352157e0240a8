//! Blocks of 4-bit codes that stand for the 16 values of a table, times a scale: bitsandbytes' NF4 and FP4.
//!
//! A block's values are at most 16 different ones. They are worked out once, rounding included, and looked up by code.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtsi64_si128, _mm_srli_epi16, _mm_unpacklo_epi8, _mm256_blendv_ps, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cvtepu8_epi32, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_permutevar8x32_ps, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_unpackhi_epi8,
    _mm256_unpacklo_epi8, _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_permutexvar_ps, _mm512_storeu_ps,
};
use std::sync::LazyLock;

/// Values that are looked up at a time.
const LANES: usize = 16;

/// How codes are looked up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Way {
    /// Those that this processor has, the fastest last.
    pub fn all() -> &'static [Self] {
        static FOUND: LazyLock<Vec<Way>> = LazyLock::new(|| {
            let mut found = vec![Way::Plain];
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                found.push(Way::Avx2);
                if is_x86_feature_detected!("avx512f") {
                    found.push(Way::Avx512);
                }
            }
            found
        });
        &FOUND
    }

    /// The fastest.
    pub fn best() -> Self {
        Self::all().last().copied().unwrap_or(Self::Plain)
    }

    /// Writes what the codes from the value `start` on stand for to `out`.
    ///
    /// # Panics
    /// When the codes end before `out` does.
    pub fn look_up(self, table: &[f32; 16], codes: &[u8], start: usize, out: &mut [f32]) {
        let (head, out) = out.split_at_mut((start % 2).min(out.len()));
        if let [first] = head {
            *first = table[usize::from(codes[start / 2] & 15)];
        }
        // From here on the first code is a high nibble.
        let codes = &codes[start.div_ceil(2)..][..out.len().div_ceil(2)];
        let done = match self {
            Self::Plain => 0,
            // SAFETY: the processor has the features, and each value of `out` has its code.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2(table, codes, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(table, codes, out) },
        };
        let (pairs, last) = out[done..].as_chunks_mut::<2>();
        let codes = &codes[done / 2..];
        for ([high, low], code) in pairs.iter_mut().zip(codes) {
            *high = table[usize::from(code >> 4)];
            *low = table[usize::from(code & 15)];
        }
        if let ([last], Some(code)) = (last, codes.last()) {
            *last = table[usize::from(code >> 4)];
        }
    }
}

/// The codes of 16 values in 8 bytes, a byte each. Only their lowest four bits count.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn spread(bytes: [u8; 8]) -> __m128i {
    let both = _mm_cvtsi64_si128(i64::from_le_bytes(bytes));
    _mm_unpacklo_epi8(_mm_srli_epi16::<4>(both), both)
}

/// How many values were written: whole vectors of them.
///
/// # Safety
/// The processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(table: &[f32; 16], codes: &[u8], out: &mut [f32]) -> usize {
    // SAFETY: the table has two vectors of values.
    let (lower, upper) = unsafe { (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8))) };
    let look_up = |codes: __m256i| {
        let [low, high] = [lower, upper].map(|part| _mm256_permutevar8x32_ps(part, codes));
        // The fourth bit says in which half of the table a value is.
        _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
    };
    let whole = out.as_chunks_mut::<LANES>().0;
    let count = whole.len() * LANES;
    for (out, bytes) in whole.iter_mut().zip(codes.as_chunks::<8>().0) {
        let codes = spread(*bytes);
        let (first, last) = (codes, std::arch::x86_64::_mm_srli_si128::<8>(codes));
        // SAFETY: `out` has two vectors of values.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), look_up(_mm256_cvtepu8_epi32(first)));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), look_up(_mm256_cvtepu8_epi32(last)));
        }
    }
    count
}

/// As [`avx2`].
///
/// # Safety
/// The processor must have AVX-512 and AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2")]
unsafe fn avx512(table: &[f32; 16], codes: &[u8], out: &mut [f32]) -> usize {
    // SAFETY: the table is a vector.
    let values = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let count = out.len() / LANES * LANES;
    let (fours, rest) = out[..count].as_chunks_mut::<{ 4 * LANES }>();
    let (bytes, bytes_rest) = codes.as_chunks::<32>();
    for (out, bytes) in fours.iter_mut().zip(bytes) {
        // SAFETY: 32 bytes are read.
        let both = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let high = _mm256_srli_epi16::<4>(both);
        // Values 0 to 15 and 32 to 47, 16 to 31 and 48 to 63.
        let (even, odd) = (_mm256_unpacklo_epi8(high, both), _mm256_unpackhi_epi8(high, both));
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
    let left = if bytes.len() > fours.len() { &codes[32 * fours.len()..] } else { bytes_rest };
    for (out, bytes) in rest.as_chunks_mut::<LANES>().0.iter_mut().zip(left.as_chunks::<8>().0) {
        let found = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(spread(*bytes)), values);
        // SAFETY: `out` is a vector of values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), found) };
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_finds_the_same_values_from_anywhere() {
        let table = std::array::from_fn(|i| i as f32 * 1.5 - 7.0);
        let codes: Vec<u8> = (0..200).map(|i| (i * 37 + i / 7) as u8).collect();
        for start in [0, 1, 2, 5, 16, 63, 64] {
            for len in [0, 1, 2, 3, 15, 16, 17, 31, 32, 64, 65, 80, 130, 255] {
                let code = |i: usize| codes[i / 2] >> (4 * (1 - i % 2)) & 15;
                let expected: Vec<f32> = (start..start + len).map(|i| table[usize::from(code(i))]).collect();
                for way in Way::all() {
                    let mut found = vec![f32::NAN; len];
                    way.look_up(&table, &codes, start, &mut found);
                    assert_eq!(found, expected, "{way:?} from {start}, {len} values");
                }
            }
        }
    }
}
