//! A packed matrix in host memory, to be read.

use burn::tensor::DType;
use half::bf16;

use super::codes::{FP4, INT8_STEP, NF4};
use super::few_rows::FewRows;
use super::ggml;
use super::layout::{Format, PackedLayout};
use super::nibbles::{Nibbles, Way};
use super::rounding::round;
use super::scales::BlockScales;
use crate::simd::{narrow, vectorized};

/// The codes and scales of a packed matrix, in host memory.
#[derive(Clone, Copy, Debug)]
pub struct PackedView<'a> {
    /// The codes.
    pub codes: &'a [u8],
    /// The scales.
    pub scales: &'a [f32],
    /// How they are stored.
    pub layout: PackedLayout,
}

impl PackedView<'_> {
    /// Writes the values from the flattened position `start` on to `out`: as f32, rounded to the layout's dtype.
    ///
    /// # Panics
    /// When the matrix ends before `out` does.
    pub fn decode(&self, start: usize, out: &mut [f32]) {
        // As many values as stay in the nearest cache until they are rounded.
        const PART: usize = 4096;
        let dtype = self.layout.dtype;
        match self.layout.format {
            Format::Nf4 => self.nibbles(&NF4).single(Way::best(), start, out),
            Format::Fp4 => self.nibbles(&FP4).single(Way::best(), start, out),
            Format::Int8 => self.bytes(start, out),
            format => {
                for (part, out) in out.chunks_mut(PART).enumerate() {
                    ggml::decode(format, self.codes, start + part * PART, out);
                    if dtype != DType::F32 {
                        vectorized(
                            #[inline(always)]
                            || round(out, dtype),
                        );
                    }
                }
            }
        }
    }

    /// As [`Self::decode`], of a layout in bf16, as bf16.
    pub(crate) fn decode_half(&self, start: usize, out: &mut [bf16]) {
        const PART: usize = 512;
        match self.layout.format {
            Format::Nf4 => return self.nibbles(&NF4).half(Way::best(), start, out),
            Format::Fp4 => return self.nibbles(&FP4).half(Way::best(), start, out),
            _ => {}
        }
        // Rounding once is enough.
        let view = Self { layout: PackedLayout { dtype: DType::F32, ..self.layout }, ..*self };
        let mut values = [0.0; PART];
        for (part, out) in out.chunks_mut(PART).enumerate() {
            let values = &mut values[..out.len()];
            view.decode(start + part * PART, values);
            vectorized(
                #[inline(always)]
                || out.iter_mut().zip(&*values).for_each(|(out, v)| *out = narrow(*v)),
            );
        }
    }

    /// `rows`, ready for [`Self::dots`] from multiples of `step` on; `None` where values are to be decoded first.
    pub(crate) fn few_rows<'r>(&self, rows: Vec<&'r [f32]>, step: usize) -> Option<FewRows<'r>> {
        FewRows::new(self.layout, rows, step)
    }

    /// Writes the product of each row with as many values from `start` on to `sums`.
    pub(crate) fn dots(&self, rows: &FewRows<'_>, start: usize, sums: &mut [f32]) {
        match rows {
            FewRows::Blocks(rows) => {
                ggml::dots((self.layout.format, self.layout.dtype), self.codes, start, rows, sums);
            }
            FewRows::Bytes(rows) => {
                let scale = self.scales[start / self.layout.block];
                for (row, sum) in rows.iter().zip(sums) {
                    let codes = &self.codes[start..][..row.len()];
                    *sum = vectorized(
                        #[inline(always)]
                        || integers(row, codes, scale, self.layout.dtype),
                    );
                }
            }
            #[cfg(target_arch = "x86_64")]
            FewRows::Nibbles(rows) => {
                let table = if self.layout.format == Format::Fp4 { &FP4 } else { &NF4 };
                self.nibbles(table).dots(rows, start, sums);
            }
        }
    }

    fn nibbles(&self, table: &'static [f32; 16]) -> Nibbles<'_> {
        let (block, dtype) = (self.layout.block, self.layout.dtype);
        let codes = self.codes.get(..self.layout.code_bytes()).unwrap_or_default();
        Nibbles { table, codes, block, scales: self.block_scales(), dtype }
    }

    fn block_scales(&self) -> BlockScales<'_> {
        let nested = self.codes.get(self.layout.code_bytes()..).filter(|_| self.layout.nested);
        BlockScales { scales: self.scales, nested }
    }

    fn bytes(&self, start: usize, mut out: &mut [f32]) {
        let (block, dtype, mut at) = (self.layout.block, self.layout.dtype, start);
        while !out.is_empty() {
            let (part, rest) = out.split_at_mut((block - at % block).min(out.len()));
            let (scale, codes) = (self.scales[at / block], &self.codes[at..][..part.len()]);
            vectorized(
                #[inline(always)]
                || {
                    for (out, code) in part.iter_mut().zip(codes) {
                        *out = f32::from(*code as i8) * scale * INT8_STEP;
                    }
                    round(part, dtype);
                },
            );
            (at, out) = (at + part.len(), rest);
        }
    }
}

/// The product of a row with 8-bit codes times `scale`, rounded to `dtype`.
#[inline(always)]
fn integers(row: &[f32], codes: &[u8], scale: f32, dtype: DType) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0; LANES];
    let mut add = |row: &[f32; LANES], codes: &[u8; LANES]| {
        let mut values: [f32; LANES] = std::array::from_fn(|i| f32::from(codes[i] as i8) * scale * INT8_STEP);
        round(&mut values, dtype);
        sums = std::array::from_fn(|i| sums[i] + row[i] * values[i]);
    };
    let ((whole, rest), (codes, last)) = (row.as_chunks(), codes.as_chunks());
    for (row, codes) in whole.iter().zip(codes) {
        add(row, codes);
    }
    let (mut row, mut codes) = ([0.0; LANES], [0; LANES]);
    row[..rest.len()].copy_from_slice(rest);
    codes[..last.len()].copy_from_slice(last);
    add(&row, &codes);
    sums.iter().sum()
}
