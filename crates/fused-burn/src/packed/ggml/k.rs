//! Blocks of 256 values, of which 32 or 16 share a scale: llama.cpp's K types.

use super::block::{Block, PART, half, lane};

/// The scale and the minimum of each of eight parts.
type ScalesAndMinima = [[f32; 8]; 2];

/// Those of a block that begins with its two f16, and twelve bytes of six-bit codes: of the first four parts in the lower six
/// bits of eight bytes, of the others the lower four bits in four bytes, and the upper two above the former.
#[inline(always)]
fn scales_and_minima(b: &[u8]) -> ScalesAndMinima {
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (first, second, third) = (word(4), word(8), word(12));
    let upper = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let both = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let scales = both(first & 0x3f3f_3f3f, third & 0x0f0f_0f0f | upper(first));
    let minima = both(second & 0x3f3f_3f3f, third >> 4 & 0x0f0f_0f0f | upper(second));
    let (d, min) = (half(b, 0), half(b, 2));
    [scales.map(|code| d * f32::from(code)), minima.map(|code| min * f32::from(code))]
}

#[allow(non_camel_case_types)] // llama.cpp's name
pub(super) struct Q4_K;
impl Block for Q4_K {
    const PARTS: usize = 8;
    const BYTES: usize = 144;

    type Head = ScalesAndMinima;

    #[inline(always)]
    fn head(b: &[u8]) -> ScalesAndMinima {
        scales_and_minima(b)
    }

    #[inline(always)]
    fn part(b: &[u8], [scales, minima]: &ScalesAndMinima, part: usize, out: &mut [f32; PART]) {
        let (scale, least) = (scales[part], minima[part]);
        let (codes, shift) = (&b[16 + part / 2 * PART..][..PART], 4 * (part % 2));
        for i in 0..PART {
            out[i] = scale * (lane(codes[i]) >> shift & 15) as f32 - least;
        }
    }
}

#[allow(non_camel_case_types)] // llama.cpp's name
pub(super) struct Q5_K;
impl Block for Q5_K {
    const PARTS: usize = 8;
    const BYTES: usize = 176;

    type Head = ScalesAndMinima;

    #[inline(always)]
    fn head(b: &[u8]) -> ScalesAndMinima {
        scales_and_minima(b)
    }

    #[inline(always)]
    fn part(b: &[u8], [scales, minima]: &ScalesAndMinima, part: usize, out: &mut [f32; PART]) {
        let (scale, least) = (scales[part], minima[part]);
        let (codes, high, shift) = (&b[48 + part / 2 * PART..][..PART], &b[16..48], 4 * (part % 2));
        for i in 0..PART {
            out[i] = scale * (lane(codes[i]) >> shift & 15 | (lane(high[i]) >> part & 1) << 4) as f32 - least;
        }
    }
}

#[allow(non_camel_case_types)] // llama.cpp's name
pub(super) struct Q6_K;
impl Block for Q6_K {
    const PARTS: usize = 8;
    const BYTES: usize = 210;

    type Head = [f32; 16];

    #[inline(always)]
    fn head(b: &[u8]) -> [f32; 16] {
        let d = half(b, 208);
        std::array::from_fn(|i| d * f32::from(b[192 + i] as i8))
    }

    /// Halves of 128 values; in each, 64 bytes of lower bits in two layers, and 32 of upper bits in four.
    #[inline(always)]
    fn part(b: &[u8], scales: &[f32; 16], part: usize, out: &mut [f32; PART]) {
        let (upper, layer) = (part / 4, part % 4);
        let low = &b[upper * 64 + layer % 2 * PART..][..PART];
        let high = &b[128 + upper * PART..][..PART];
        let (low_shift, high_shift) = (4 * (layer / 2), 2 * layer);
        let (first, second) = (scales[2 * part], scales[2 * part + 1]);
        for i in 0..PART {
            let code = lane(low[i]) >> low_shift & 15 | (lane(high[i]) >> high_shift & 3) << 4;
            out[i] = (if i < PART / 2 { first } else { second }) * (code - 32) as f32;
        }
    }
}
