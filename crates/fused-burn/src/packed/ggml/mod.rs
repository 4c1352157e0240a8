//! llama.cpp's block formats. Every decoded value is gguf-py's, to the bit.
//!
//! Blocks are decoded in parts of 32 values, so that a product can take any stretch of a row. The loops become vector code.

use super::layout::Format;
use crate::simd::vectorized;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod dots;
mod k;
mod small;

use block::Block;
pub(super) use block::PART;
pub(super) use dots::dots;
use k::{Q4_K, Q5_K, Q6_K};
use small::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

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

/// Block `i` of all.
#[inline(always)]
fn block<B: Block>(codes: &[u8], i: usize) -> &[u8] {
    &codes[i * B::BYTES..][..B::BYTES]
}

/// Some values from position `at` on, within a part.
#[inline(always)]
fn within<B: Block>(codes: &[u8], at: usize, out: &mut [f32]) {
    let (block, mut aside) = (block::<B>(codes, at / (PART * B::PARTS)), [0.0; PART]);
    B::part(block, &B::head(block), at / PART % B::PARTS, &mut aside);
    out.copy_from_slice(&aside[at % PART..][..out.len()]);
}

#[inline(always)]
fn parts<B: Block>(codes: &[u8], start: usize, out: &mut [f32]) {
    let head = (start.next_multiple_of(PART) - start).min(out.len());
    let (before, out) = out.split_at_mut(head);
    if head > 0 {
        within::<B>(codes, start, before);
    }
    let mut at = start + head;
    let (mut whole, rest) = out.as_chunks_mut::<PART>();
    while !whole.is_empty() {
        let first = at / PART % B::PARTS;
        let (own, others) = whole.split_at_mut((B::PARTS - first).min(whole.len()));
        // Vectors within a part are wanted: across blocks, which a compiler may find too, values lie far apart.
        let block = block::<B>(codes, std::hint::black_box(at / (PART * B::PARTS)));
        let head = B::head(block);
        for (i, out) in (first..).zip(own.iter_mut()) {
            B::part(block, &head, i, out);
        }
        at += own.len() * PART;
        whole = others;
    }
    if !rest.is_empty() {
        within::<B>(codes, at, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
