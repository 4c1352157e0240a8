//! What llama.cpp's blocks hold. Every value is the one of gguf-py, to the bit.
//!
//! Blocks are decoded in parts of 32 values, so that a product can take any stretch of a row. The loops become vector code.

use super::layout::Format;
use crate::simd::vectorized;

impl Format {
    /// Writes the values of whole blocks of llama.cpp to `out`, in f32.
    ///
    /// # Panics
    /// For one of bitsandbytes' formats, and when `out` has not as many values as there are in the blocks.
    pub fn decode_blocks(self, blocks: &[u8], out: &mut [f32]) {
        assert!(self.block().is_some(), "{} has no blocks of its own", self.name());
        let (values, bytes) = self.block().unwrap_or((1, 1));
        assert_eq!(blocks.len() / bytes * values, out.len(), "values of the blocks");
        decode(self, blocks, 0, out);
    }
}

/// Values of a part.
const PART: usize = 32;

/// A format's blocks of `BYTES` bytes, in parts.
trait Block {
    const PARTS: usize;
    const BYTES: usize;

    /// Part `i` of a block.
    fn part(block: &[u8], i: usize, out: &mut [f32; PART]);
}

/// Writes the values from the flattened position `start` on to `out`.
///
/// # Panics
/// When the blocks end before `out` does, and for a format that is not llama.cpp's.
pub(super) fn decode(format: Format, codes: &[u8], start: usize, out: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || match format {
            Format::Q8_0 => parts::<Q8_0>(codes, start, out),
            Format::Q4_0 => parts::<Q4_0>(codes, start, out),
            Format::Q4_1 => parts::<Q4_1>(codes, start, out),
            Format::Q5_0 => parts::<Q5_0>(codes, start, out),
            Format::Q5_1 => parts::<Q5_1>(codes, start, out),
            Format::Q4_K => parts::<Q4_K>(codes, start, out),
            Format::Q5_K => parts::<Q5_K>(codes, start, out),
            Format::Q6_K => parts::<Q6_K>(codes, start, out),
            Format::Nf4 | Format::Fp4 | Format::Int8 => unreachable!("bitsandbytes' formats have no such blocks"),
        },
    );
}

/// Part `i` of all.
#[inline(always)]
fn part<B: Block>(codes: &[u8], i: usize, out: &mut [f32; PART]) {
    B::part(&codes[i / B::PARTS * B::BYTES..][..B::BYTES], i % B::PARTS, out);
}

#[inline(always)]
fn parts<B: Block>(codes: &[u8], start: usize, out: &mut [f32]) {
    let (first, skipped) = (start / PART, start % PART);
    let mut aside = [0.0; PART];
    let head = if skipped == 0 { 0 } else { (PART - skipped).min(out.len()) };
    let (before, out) = out.split_at_mut(head);
    if head > 0 {
        part::<B>(codes, first, &mut aside);
        before.copy_from_slice(&aside[skipped..][..head]);
    }
    let first = (start + head) / PART;
    let (whole, rest) = out.as_chunks_mut::<PART>();
    let count = whole.len();
    for (i, out) in whole.iter_mut().enumerate() {
        part::<B>(codes, first + i, out);
    }
    if !rest.is_empty() {
        part::<B>(codes, first + count, &mut aside);
        rest.copy_from_slice(&aside[..rest.len()]);
    }
}

/// The f16 at `at`, without a branch. No step has a value below f32's normal range, for which processors take long.
#[inline(always)]
fn half(bytes: &[u8], at: usize) -> f32 {
    const LEAST: f32 = 1.0 / 16_777_216.0;
    let bits = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let size = bits & 0x7fff;
    // The exponents' biases differ by 112. Subnormal values are multiples of the least one.
    let normal = f32::from_bits((size << 13) + (112 << 23));
    let subnormal = size as i32 as f32 * LEAST;
    let special = f32::from_bits(size << 13 | 0x7f80_0000);
    let value = if size < 0x400 { subnormal } else { normal };
    let value = if size >= 0x7c00 { special } else { value };
    f32::from_bits(value.to_bits() | (bits & 0x8000) << 16)
}

/// A part's codes are worked on in lanes of 32 bits, in which vectors can be shifted and converted.
#[inline(always)]
fn lane(byte: u8) -> i32 {
    i32::from(byte)
}

/// Lower halves of 16 bytes, then upper ones.
#[inline(always)]
fn nibbles(bytes: &[u8], out: &mut [f32; PART], value: impl Fn(i32) -> f32) {
    let bytes = &bytes[..PART / 2];
    for i in 0..PART / 2 {
        out[i] = value(lane(bytes[i]) & 15);
    }
    for i in 0..PART / 2 {
        out[i + PART / 2] = value(lane(bytes[i]) >> 4);
    }
}

/// As [`nibbles`], with a fifth bit for each.
#[inline(always)]
fn fives(bytes: &[u8], high: &[u8], out: &mut [f32; PART], value: impl Fn(i32) -> f32) {
    let bytes = &bytes[..PART / 2];
    let high = i32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    for i in 0..PART / 2 {
        out[i] = value(lane(bytes[i]) & 15 | (high >> i & 1) << 4);
    }
    for i in 0..PART / 2 {
        out[i + PART / 2] = value(lane(bytes[i]) >> 4 | (high >> (i + 16) & 1) << 4);
    }
}

struct Q8_0;
impl Block for Q8_0 {
    const PARTS: usize = 1;
    const BYTES: usize = 34;

    #[inline(always)]
    fn part(b: &[u8], _: usize, out: &mut [f32; PART]) {
        let (d, codes) = (half(b, 0), &b[2..][..PART]);
        for i in 0..PART {
            out[i] = f32::from(codes[i] as i8) * d;
        }
    }
}

struct Q4_0;
impl Block for Q4_0 {
    const PARTS: usize = 1;
    const BYTES: usize = 18;

    #[inline(always)]
    fn part(b: &[u8], _: usize, out: &mut [f32; PART]) {
        let d = half(b, 0);
        nibbles(
            &b[2..],
            out,
            #[inline(always)]
            |q| d * (q - 8) as f32,
        );
    }
}

struct Q4_1;
impl Block for Q4_1 {
    const PARTS: usize = 1;
    const BYTES: usize = 20;

    #[inline(always)]
    fn part(b: &[u8], _: usize, out: &mut [f32; PART]) {
        let (d, min) = (half(b, 0), half(b, 2));
        nibbles(
            &b[4..],
            out,
            #[inline(always)]
            |q| d * q as f32 + min,
        );
    }
}

struct Q5_0;
impl Block for Q5_0 {
    const PARTS: usize = 1;
    const BYTES: usize = 22;

    #[inline(always)]
    fn part(b: &[u8], _: usize, out: &mut [f32; PART]) {
        let d = half(b, 0);
        fives(
            &b[6..],
            &b[2..6],
            out,
            #[inline(always)]
            |q| d * (q - 16) as f32,
        );
    }
}

struct Q5_1;
impl Block for Q5_1 {
    const PARTS: usize = 1;
    const BYTES: usize = 24;

    #[inline(always)]
    fn part(b: &[u8], _: usize, out: &mut [f32; PART]) {
        let (d, min) = (half(b, 0), half(b, 2));
        fives(
            &b[8..],
            &b[4..8],
            out,
            #[inline(always)]
            |q| d * q as f32 + min,
        );
    }
}

/// The six-bit scale and minimum of one of eight parts, in twelve bytes.
#[inline(always)]
fn scale_and_min(scales: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = if i < 4 {
        (scales[i] & 63, scales[i + 4] & 63)
    } else {
        (scales[i + 4] & 15 | scales[i - 4] >> 2 & 48, scales[i + 4] >> 4 | scales[i] >> 2 & 48)
    };
    (f32::from(scale), f32::from(min))
}

#[allow(non_camel_case_types)] // llama.cpp's name
struct Q4_K;
impl Block for Q4_K {
    const PARTS: usize = 8;
    const BYTES: usize = 144;

    #[inline(always)]
    fn part(b: &[u8], part: usize, out: &mut [f32; PART]) {
        let (scale, least) = scale_and_min(&b[4..16], part);
        let (scale, least) = (half(b, 0) * scale, half(b, 2) * least);
        let (codes, shift) = (&b[16 + part / 2 * PART..][..PART], 4 * (part % 2));
        for i in 0..PART {
            out[i] = scale * (lane(codes[i]) >> shift & 15) as f32 - least;
        }
    }
}

#[allow(non_camel_case_types)] // llama.cpp's name
struct Q5_K;
impl Block for Q5_K {
    const PARTS: usize = 8;
    const BYTES: usize = 176;

    #[inline(always)]
    fn part(b: &[u8], part: usize, out: &mut [f32; PART]) {
        let (scale, least) = scale_and_min(&b[4..16], part);
        let (scale, least) = (half(b, 0) * scale, half(b, 2) * least);
        let (codes, high, shift) = (&b[48 + part / 2 * PART..][..PART], &b[16..48], 4 * (part % 2));
        for i in 0..PART {
            out[i] = scale * (lane(codes[i]) >> shift & 15 | (lane(high[i]) >> part & 1) << 4) as f32 - least;
        }
    }
}

#[allow(non_camel_case_types)] // llama.cpp's name
struct Q6_K;
impl Block for Q6_K {
    const PARTS: usize = 8;
    const BYTES: usize = 210;

    /// Halves of 128 values; in each, 64 bytes of lower bits in two layers, and 32 of upper bits in four.
    #[inline(always)]
    fn part(b: &[u8], part: usize, out: &mut [f32; PART]) {
        let (upper, layer) = (part / 4, part % 4);
        let low = &b[upper * 64 + layer % 2 * PART..][..PART];
        let high = &b[128 + upper * PART..][..PART];
        let d = half(b, 208);
        let (low_shift, high_shift) = (4 * (layer / 2), 2 * layer);
        let (first, second) = (d * f32::from(b[192 + 2 * part] as i8), d * f32::from(b[193 + 2 * part] as i8));
        for i in 0..PART {
            let code = lane(low[i]) >> low_shift & 15 | (lane(high[i]) >> high_shift & 3) << 4;
            out[i] = (if i < PART / 2 { first } else { second }) * (code - 32) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_f16_is_widened_to_the_bit() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (half(&bits.to_le_bytes(), 0), f16::from_bits(bits).to_f32());
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn a_stretch_of_any_length_from_anywhere_is_that_of_the_whole() {
        for format in Format::ALL {
            let Some((values, bytes)) = format.block() else { continue };
            let codes: Vec<u8> = (0..4 * bytes).map(|i| (i * 37 + i / 7) as u8 & 0x3f).collect();
            let mut all = vec![0.0; 4 * values];
            decode(format, &codes, 0, &mut all);
            for (start, len) in [(0, 5), (3, 20), (3, 70), (31, 1), (32, 32), (40, 64), (1, 4 * values - 1), (7, 0)] {
                let len = len.min(all.len() - start);
                let mut part = vec![f32::NAN; len];
                decode(format, &codes, start, &mut part);
                assert_eq!(part, all[start..][..len], "{} from {start}, {len} values", format.name());
            }
        }
    }
}
