//! The common part of llama.cpp's block formats.

/// Values of a part.
pub(in crate::packed) const PART: usize = 32;

/// A format's blocks of `BYTES` bytes, in parts.
pub(super) trait Block {
    const PARTS: usize;
    const BYTES: usize;
    /// Values worked out once for all parts of a block.
    type Head;

    fn head(block: &[u8]) -> Self::Head;

    /// Part `i` of a block.
    fn part(block: &[u8], head: &Self::Head, i: usize, out: &mut [f32; PART]);
}

/// The f16 at `at`, without a branch. No step has a value below f32's normal range, for which processors take long.
#[inline(always)]
pub(super) fn half(bytes: &[u8], at: usize) -> f32 {
    const LEAST: f32 = 1.0 / 16_777_216.0;
    let bits = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let size = bits & 0x7fff;
    // The exponents' biases differ by 112. Subnormal values are multiples of the least one. Integers are chosen from, for
    // which no processor branches.
    let normal = (size << 13) + (112 << 23);
    let subnormal = (size as i32 as f32 * LEAST).to_bits();
    let value = if size < 0x400 { subnormal } else { normal };
    let value = if size >= 0x7c00 { size << 13 | 0x7f80_0000 } else { value };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// A part's codes are worked on in lanes of 32 bits, in which vectors can be shifted and converted.
#[inline(always)]
pub(super) fn lane(byte: u8) -> i32 {
    i32::from(byte)
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
}
