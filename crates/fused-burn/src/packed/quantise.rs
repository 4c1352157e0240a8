//! Quantising as bitsandbytes 0.50 does it on a CPU, on all threads.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::error::QuantizeError;
use super::layout::{Format, NESTED_BLOCK, PackedLayout};
use super::nested::MAP;
use crate::simd::vectorized;

/// How a weight is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantization {
    /// The format of the result: `Nf4`, `Fp4` or `Int8`.
    pub format: Format,
    /// Values that share a scale: 32, 64 and on up to 4096 by twos. `Int8` has one scale a row.
    pub block: usize,
    /// Whether the scales are quantised too, which saves 0.37 bits a value. `Int8` has too few of them.
    pub double_quantization: bool,
}

impl Quantization {
    /// In blocks of 64 with plain scales, as bitsandbytes does when nothing else is said.
    pub fn new(format: Format) -> Self {
        Self { format, block: 64, double_quantization: false }
    }

    /// The layout of a matrix that is quantised so.
    ///
    /// # Errors
    /// A format that nothing is quantised to here, and a block of another size.
    pub fn layout(self, [rows, cols]: [usize; 2], dtype: burn::tensor::DType) -> Result<PackedLayout, QuantizeError> {
        match self.format {
            Format::Int8 => Ok(PackedLayout::of(Format::Int8, [rows, cols], dtype)),
            Format::Nf4 | Format::Fp4 => {
                if !self.block.is_power_of_two() || !(32..=4096).contains(&self.block) {
                    return Err(QuantizeError::Block(self.block));
                }
                let (format, block, nested) = (self.format, self.block, self.double_quantization);
                Ok(PackedLayout { format, block, nested, rows, cols, dtype })
            }
            other => Err(QuantizeError::Format(other)),
        }
    }
}

/// Values that a thread takes at a time: whole blocks of any size.
const PART: usize = 1 << 14;
/// The least that a block's largest value counts as.
const LEAST: f32 = 1e-38;

/// Codes and scales of `values` (`[rows, cols]` in order, which `single` makes f32).
///
/// # Errors
/// Values that are not finite, or too large for `Int8`.
pub(super) fn quantize<T: Copy + Sync>(
    values: &[T],
    single: impl Fn(T) -> f32 + Sync,
    layout: &PackedLayout,
) -> Result<(Vec<u8>, Vec<f32>), QuantizeError> {
    let (mut codes, mut scales) = (vec![0; layout.code_bytes()], vec![0.0; layout.num_blocks()]);
    if layout.format == Format::Int8 {
        let width = layout.cols.max(1);
        let rows = codes.par_chunks_mut(width).zip(&mut scales).zip(values.par_chunks(width));
        rows.for_each(|((codes, scale), values)| *scale = integers(values, &single, codes));
    } else {
        let parts = codes.par_chunks_mut(PART / 2).zip(scales.par_chunks_mut(PART / layout.block));
        parts.zip(values.par_chunks(PART)).for_each(|((codes, scales), values)| {
            vectorized(
                #[inline(always)]
                || match layout.format {
                    Format::Nf4 => blocks::<false, T>(values, &single, layout.block, codes, scales),
                    _ => blocks::<true, T>(values, &single, layout.block, codes, scales),
                },
            );
        });
    }
    if !scales.iter().all(|scale| scale.is_finite()) {
        return Err(offending(values, single, layout));
    }
    if layout.nested {
        scales = nest(&scales, &mut codes);
    }
    Ok((codes, scales))
}

/// The error for values of which the largest of some block is not finite.
fn offending<T: Copy>(values: &[T], single: impl Fn(T) -> f32, layout: &PackedLayout) -> QuantizeError {
    let as_stored = |v: T| if layout.format == Format::Int8 { f16::from_f32(single(v)).to_f32() } else { single(v) };
    let bad = || values.iter().enumerate().filter(|(_, v)| !as_stored(**v).is_finite());
    let (count, first) = (bad().count(), bad().next().map_or(0, |(i, _)| i));
    let at = [first / layout.cols.max(1), first % layout.cols.max(1)];
    let value = values.get(first).map_or(f32::NAN, |v| single(*v));
    QuantizeError::Values { count, at, value, format: layout.format }
}

/// The largest absolute value; infinite or NaN if one of them is.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    // The bits of positive floats are in their order, and those of what is not finite are above all others.
    f32::from_bits(values.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0))
}

/// The values of a block's codes at which the next one begins, in rising order: halfway, worked out in f32. A value that
/// lies on one of them has the lower code.
const NF4_BOUNDS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_42,
    -0.234_607_4,
    -0.137_911_74,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_76,
    0.389_312_54,
    0.501_663_45,
    0.642_786_9,
    0.861_478_45,
];
const FP4_BOUNDS: [f32; 15] = [
    -0.833_333_4,
    -0.583_333_4,
    -0.416_666_7,
    -0.291_666_7,
    -0.208_333_34,
    -0.085_937_5,
    -0.002_604_166_7,
    0.0,
    0.002_604_166_7,
    0.085_937_5,
    0.208_333_34,
    0.291_666_7,
    0.416_666_7,
    0.583_333_4,
    0.833_333_4,
];
/// The codes of FP4 by rising value.
const FP4_ORDER: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

/// Blocks of 4-bit codes, two a byte.
#[inline(always)]
fn blocks<const FP4: bool, T: Copy>(
    values: &[T],
    single: impl Fn(T) -> f32,
    block: usize,
    codes: &mut [u8],
    scales: &mut [f32],
) {
    // A last code that stands alone is paired with that of zero.
    let (mut wide, mut found) = ([0.0f32; 4096], [if FP4 { 0 } else { 7 }; 4096]);
    for ((values, codes), scale) in values.chunks(block).zip(codes.chunks_mut(block / 2)).zip(scales) {
        let (wide, whole) = (&mut wide[..values.len()], values.len() == block);
        wide.iter_mut().zip(values).for_each(|(wide, v)| *wide = single(*v));
        let most = largest(wide);
        // bitsandbytes multiplies in whole blocks, and divides in a last one that is not.
        let factor = 1.0 / most.max(LEAST);
        *scale = if whole {
            most
        } else if most.is_finite() {
            most.max(LEAST)
        } else {
            most
        };
        let divisor = *scale;
        for (found, value) in found.iter_mut().zip(&*wide) {
            let scaled = if whole { value * factor } else { value / divisor };
            let scaled = scaled.clamp(-1.0, 1.0);
            let bounds = if FP4 { &FP4_BOUNDS } else { &NF4_BOUNDS };
            let mut below = 0i32;
            for bound in bounds {
                below += i32::from(scaled > *bound);
            }
            *found = below as u8;
        }
        if FP4 {
            found[..values.len()].iter_mut().for_each(|code| *code = FP4_ORDER[usize::from(*code)]);
        }
        if values.len() % 2 == 1 {
            found[values.len()] = if FP4 { 0 } else { 7 };
        }
        for (code, [high, low]) in codes.iter_mut().zip(found.as_chunks::<2>().0) {
            *code = high << 4 | low;
        }
    }
}

/// A row of 8-bit codes, and its scale. bitsandbytes' layer makes a weight f16 first.
fn integers<T: Copy>(values: &[T], single: impl Fn(T) -> f32, codes: &mut [u8]) -> f32 {
    let mut wide: Vec<f32> = values.iter().map(|v| single(*v)).collect();
    let mut halves = vec![f16::ZERO; wide.len()];
    halves.convert_from_f32_slice(&wide);
    halves.convert_to_f32_slice(&mut wide);
    vectorized(
        #[inline(always)]
        || {
            let most = largest(&wide);
            // A row of zeros has a factor that is infinite, and codes that are zero.
            // As PyTorch divides a number by a tensor.
            let factor = (1.0 / most) * 127.0;
            for (code, value) in codes.iter_mut().zip(&wide) {
                *code = ((value * factor).round_ties_even() as i8) as u8;
            }
            most
        },
    )
}

/// Quantises scales: their codes are appended to `codes`. What is left is a scale for 256 of them each, and the offset that
/// was subtracted.
fn nest(scales: &[f32], codes: &mut Vec<u8>) -> Vec<f32> {
    let offset = (scales.iter().map(|s| f64::from(*s)).sum::<f64>() / scales.len().max(1) as f64) as f32;
    let bounds: [f32; 255] = std::array::from_fn(|i| (MAP[i] + MAP[i + 1]) / 2.0);
    let start = codes.len();
    codes.resize(start + scales.len(), 0);
    let groups = codes[start..].par_chunks_mut(NESTED_BLOCK).zip(scales.par_chunks(NESTED_BLOCK));
    let mut outer: Vec<f32> = groups
        .map(|(codes, scales)| {
            let most = scales.iter().fold(0.0f32, |most, s| most.max((s - offset).abs()));
            if most > 0.0 {
                for (code, scale) in codes.iter_mut().zip(scales) {
                    let scaled = (scale - offset) * (1.0 / most);
                    *code = bounds.partition_point(|bound| scaled > *bound) as u8;
                }
            }
            most
        })
        .collect();
    outer.push(offset);
    outer
}
