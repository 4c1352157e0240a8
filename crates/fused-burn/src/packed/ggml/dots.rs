//! Products of a few rows with rows of blocks, which are decoded in registers and never written to memory.

use burn::tensor::DType;

use super::super::rounding::round;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::block::{Block, PART};
use super::k::{Q4_K, Q5_K, Q6_K};
use super::small::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use super::{Format, block};
use crate::simd::vectorized;

/// Rows that are multiplied in one pass over the blocks.
const ROWS: usize = 4;

/// Writes the product of each row with as many values from the flattened position `start` on to `sums`. Values are
/// rounded to `dtype`.
///
/// # Panics
/// When `start` and the rows' length are no multiples of [`PART`], when the blocks end before a row does, and for a format
/// that is not llama.cpp's.
pub(in crate::packed) fn dots(
    (format, dtype): (Format, DType),
    codes: &[u8],
    start: usize,
    rows: &[&[f32]],
    sums: &mut [f32],
) {
    let how = How { format, dtype, fast: is_fast() };
    dots_by(how, codes, start, rows, sums);
}

/// Whether the processor has the instructions that most of the work is written for.
fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::is_here();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// How codes are multiplied.
#[derive(Clone, Copy)]
struct How {
    format: Format,
    dtype: DType,
    /// By the instructions that [`is_fast`] asks for.
    fast: bool,
}

fn dots_by(how: How, codes: &[u8], start: usize, rows: &[&[f32]], sums: &mut [f32]) {
    for (rows, sums) in rows.chunks(ROWS).zip(sums.chunks_mut(ROWS)) {
        match rows {
            [a] => few(how, codes, start, [a], sums),
            [a, b] => few(how, codes, start, [a, b], sums),
            [a, b, c] => few(how, codes, start, [a, b, c], sums),
            [a, b, c, d] => few(how, codes, start, [a, b, c, d], sums),
            _ => {}
        }
    }
}

fn few<const R: usize>(how: How, codes: &[u8], start: usize, rows: [&[f32]; R], sums: &mut [f32]) {
    let found = match how.format {
        Format::Q8_0 => best::<Q8_0, R>(how, codes, start, rows),
        Format::Q4_0 => best::<Q4_0, R>(how, codes, start, rows),
        Format::Q4_1 => best::<Q4_1, R>(how, codes, start, rows),
        Format::Q5_0 => best::<Q5_0, R>(how, codes, start, rows),
        Format::Q5_1 => best::<Q5_1, R>(how, codes, start, rows),
        Format::Q4_K => best::<Q4_K, R>(how, codes, start, rows),
        Format::Q5_K => best::<Q5_K, R>(how, codes, start, rows),
        Format::Q6_K => best::<Q6_K, R>(how, codes, start, rows),
        Format::Nf4 | Format::Fp4 | Format::Int8 => unreachable!("bitsandbytes' formats have no such blocks"),
    };
    sums.copy_from_slice(&found);
}

/// As fast as this processor can.
#[cfg(target_arch = "x86_64")]
fn best<B: avx512::Vectors, const R: usize>(how: How, codes: &[u8], start: usize, rows: [&[f32]; R]) -> [f32; R] {
    if how.fast {
        #[allow(unsafe_code)]
        // SAFETY: `fast` says that the features are there.
        return unsafe { avx512::parts::<B, R>(codes, how.dtype, start, rows) };
    }
    anywhere::<B, R>(how.dtype, codes, start, rows)
}

#[cfg(not(target_arch = "x86_64"))]
fn best<B: Block, const R: usize>(how: How, codes: &[u8], start: usize, rows: [&[f32]; R]) -> [f32; R] {
    anywhere::<B, R>(how.dtype, codes, start, rows)
}

fn anywhere<B: Block, const R: usize>(dtype: DType, codes: &[u8], start: usize, rows: [&[f32]; R]) -> [f32; R] {
    vectorized(
        #[inline(always)]
        || parts::<B, R>(dtype, codes, start, rows),
    )
}

#[inline(always)]
fn parts<B: Block, const R: usize>(dtype: DType, codes: &[u8], start: usize, rows: [&[f32]; R]) -> [f32; R] {
    let rows = rows.map(|row| row.as_chunks::<PART>().0);
    let (count, mut at, mut done) = (rows[0].len(), start / PART, 0);
    let mut sums = [[0.0f32; PART]; R];
    while done < count {
        let first = at % B::PARTS;
        let own = (B::PARTS - first).min(count - done);
        let block = block::<B>(codes, at / B::PARTS);
        let head = B::head(block);
        for i in 0..own {
            let mut values = [0.0; PART];
            B::part(block, &head, first + i, &mut values);
            round(&mut values, dtype);
            for (sums, row) in sums.iter_mut().zip(rows) {
                let x = &row[done + i];
                *sums = std::array::from_fn(|lane| sums[lane] + x[lane] * values[lane]);
            }
        }
        (at, done) = (at + own, done + own);
    }
    sums.map(|lanes| lanes.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::super::decode;
    use super::*;

    #[test]
    fn products_of_one_to_seven_rows_are_those_of_decoded_values() {
        for format in Format::ALL {
            let Some((values, bytes)) = format.block() else { continue };
            let codes: Vec<u8> = (0..6 * bytes).map(|i| (i * 37 + i / 7) as u8 & 0x3f).collect();
            let mut exact = vec![0.0; 6 * values];
            decode(format, &codes, 0, &mut exact);
            let parts = [(0, exact.len()), (PART, PART), (2 * PART, exact.len() - 3 * PART)];
            for ((start, len), dtype) in parts.iter().flat_map(|part| [DType::F32, DType::BF16].map(|d| (*part, d))) {
                let mut all = exact.clone();
                round(&mut all, dtype);
                let (start, values) = (start, &all[start..start + len]);
                let rows: Vec<Vec<f32>> =
                    (0..7).map(|r| (0..len).map(|i| ((i * 13 + r * 7) % 31) as f32 * 0.1 - 1.5).collect()).collect();
                for count in 1..=rows.len() {
                    let some: Vec<&[f32]> = rows[..count].iter().map(Vec::as_slice).collect();
                    let ways = [false, is_fast()].map(|fast| {
                        let mut sums = vec![f32::NAN; count];
                        dots_by(How { format, dtype, fast }, &codes, start, &some, &mut sums);
                        sums
                    });
                    for (sum, row) in ways.iter().flat_map(|sums| sums.iter().zip(&some)) {
                        let terms = || row.iter().zip(values).map(|(x, v)| f64::from(*x) * f64::from(*v));
                        let (expected, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                        let name = format.name();
                        assert!((f64::from(*sum) - expected).abs() <= 1e-6 * size, "{name}: {sum} and {expected}");
                    }
                }
            }
        }
    }
}
