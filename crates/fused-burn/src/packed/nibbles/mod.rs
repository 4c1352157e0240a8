//! Blocks of 4-bit codes that stand for the 16 values of a table, times a scale: bitsandbytes' NF4 and FP4.
//!
//! A block's values are at most 16 different ones. They are worked out once, rounding included, and looked up by code.

use std::sync::LazyLock;

use burn::tensor::DType;
use half::bf16;

use super::rounding::round;
use super::scales::BlockScales;
use crate::simd::narrow;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod dots;

#[cfg(target_arch = "x86_64")]
pub(crate) use dots::Ordered;

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
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
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
}

/// Codes of a matrix, and what they stand for.
pub(super) struct Nibbles<'a> {
    pub table: &'a [f32; 16],
    /// Two of them a byte, the first in the high half.
    pub codes: &'a [u8],
    /// How many values share a scale: an even number.
    pub block: usize,
    pub scales: BlockScales<'a>,
    /// The dtype that a value times its scale is rounded to.
    pub dtype: DType,
}

impl Nibbles<'_> {
    /// Writes the values from `start` on to `out`.
    ///
    /// # Panics
    /// When the codes end before `out` does.
    #[allow(unsafe_code)]
    pub fn single(&self, way: Way, start: usize, out: &mut [f32]) {
        let (start, out) = self.odd(start, out, |value| value);
        match way {
            Way::Plain => self.plain(start, out, |value| value),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has the features.
            Way::Avx2 => unsafe { avx2::single(self, start, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Way::Avx512 => unsafe { avx512::single(self, start, out) },
        }
    }

    /// As [`Self::single`], as bf16, to which values are rounded.
    #[allow(unsafe_code)]
    pub fn half(&self, way: Way, start: usize, out: &mut [bf16]) {
        let (start, out) = self.odd(start, out, narrow);
        match way {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has the features.
            Way::Avx512 => unsafe { avx512::half(self, start, out) },
            _ => self.plain(start, out, narrow),
        }
    }

    /// A first value whose code is a low half, and what is left.
    fn odd<'o, T>(&self, start: usize, out: &'o mut [T], convert: impl Fn(f32) -> T) -> (usize, &'o mut [T]) {
        let (head, rest) = out.split_at_mut((start % 2).min(out.len()));
        if let [first] = head {
            let values = self.values(self.scales.of(start / self.block));
            *first = convert(values[usize::from(self.codes[start / 2] & 15)]);
        }
        (start + head.len(), rest)
    }

    fn plain<T: Copy>(&self, start: usize, out: &mut [T], convert: impl Fn(f32) -> T) {
        self.blocks(start, out, |scale, codes, out| look_up(&self.values(scale).map(&convert), codes, out));
    }

    /// The values of the codes of a block.
    fn values(&self, scale: f32) -> [f32; 16] {
        let mut values = self.table.map(|value| value * scale);
        round(&mut values, self.dtype);
        values
    }

    /// Calls `write` with the scale, the codes and the part of `out` of each block. `start` is even.
    #[inline(always)]
    fn blocks<T>(&self, start: usize, mut out: &mut [T], mut write: impl FnMut(f32, &[u8], &mut [T])) {
        let mut codes = &self.codes[start / 2..];
        let (mut block, mut here) = (start / self.block, self.block - start % self.block);
        while !out.is_empty() {
            let (part, rest) = out.split_at_mut(here.min(out.len()));
            let (own, others) = codes.split_at(part.len().div_ceil(2));
            write(self.scales.of(block), own, part);
            (out, codes, block, here) = (rest, others, block + 1, self.block);
        }
    }
}

/// Writes what `codes` stand for.
fn look_up<T: Copy>(values: &[T; 16], codes: &[u8], out: &mut [T]) {
    for (out, code) in out.chunks_mut(2).zip(codes) {
        out[0] = values[usize::from(code >> 4)];
        if let Some(second) = out.get_mut(1) {
            *second = values[usize::from(code & 15)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_finds_the_same_values_from_anywhere() {
        let table = std::array::from_fn(|i| i as f32 * 1.37 - 7.0);
        let codes: Vec<u8> = (0..700).map(|i| (i * 37 + i / 7) as u8).collect();
        let all: Vec<f32> = (0..50).map(|block| 0.3 + block as f32 * 0.11).collect();
        let scales = BlockScales { scales: &all, nested: None };
        for (block, dtype) in
            [32, 64, 128].into_iter().flat_map(|b| [DType::F32, DType::BF16, DType::F16].map(|d| (b, d)))
        {
            let nibbles = Nibbles { table: &table, codes: &codes, block, scales, dtype };
            let value = |i: usize| {
                let code = codes[i / 2] >> (4 * (1 - i % 2)) & 15;
                let mut value = [table[usize::from(code)] * all[i / block]];
                round(&mut value, dtype);
                value[0]
            };
            for start in [0, 1, 2, 5, 16, 63, 64, 200] {
                for len in [0, 1, 2, 3, 15, 16, 17, 31, 32, 64, 65, 80, 130, 255, 1000] {
                    let expected: Vec<f32> = (start..start + len).map(value).collect();
                    for way in Way::all() {
                        let mut found = vec![f32::NAN; len];
                        nibbles.single(*way, start, &mut found);
                        assert_eq!(found, expected, "{way:?} from {start}, {len} values");
                        if dtype == DType::BF16 {
                            let mut found = vec![bf16::NAN; len];
                            nibbles.half(*way, start, &mut found);
                            let found: Vec<f32> = found.iter().map(|v| v.to_f32()).collect();
                            assert_eq!(found, expected, "{way:?} from {start}, {len} values");
                        }
                    }
                }
            }
        }
    }
}
