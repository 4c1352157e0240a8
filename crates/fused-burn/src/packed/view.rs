//! A packed matrix in host memory, to be read.

use burn::tensor::DType;
use half::{bf16, f16};

use super::codes::{FP4, INT8_STEP, NF4};
use super::ggml;
use super::layout::{Format, NESTED_BLOCK, PackedLayout};
use super::nested::MAP;
use super::nibbles::Way;
use crate::simd::{narrow, vectorized, widen};

/// Rounds values to `dtype`.
#[inline(always)]
fn round(values: &mut [f32], dtype: DType) {
    match dtype {
        DType::BF16 => values.iter_mut().for_each(|v| *v = widen(narrow(*v))),
        DType::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        _ => {}
    }
}

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
            Format::Nf4 => self.nibbles(&NF4, start, out),
            Format::Fp4 => self.nibbles(&FP4, start, out),
            Format::Int8 => self.bytes(start, out),
            format => {
                for (part, out) in out.chunks_mut(PART).enumerate() {
                    ggml::decode(format, self.codes, start + part * PART, out);
                    vectorized(
                        #[inline(always)]
                        || round(out, dtype),
                    );
                }
            }
        }
    }

    /// As [`Self::decode`], of a layout in bf16, as bf16.
    pub(crate) fn decode_half(&self, start: usize, out: &mut [bf16]) {
        const PART: usize = 512;
        let mut values = [0.0; PART];
        // Rounding once is enough.
        let view = match self.layout.format.block() {
            Some(_) => Self { layout: PackedLayout { dtype: DType::F32, ..self.layout }, ..*self },
            None => *self,
        };
        for (part, out) in out.chunks_mut(PART).enumerate() {
            let values = &mut values[..out.len()];
            view.decode(start + part * PART, values);
            vectorized(
                #[inline(always)]
                || out.iter_mut().zip(&*values).for_each(|(out, v)| *out = narrow(*v)),
            );
        }
    }

    /// Calls `write` with each block's scale, the position from which on its values are read, and where to.
    fn blocks(&self, start: usize, mut out: &mut [f32], mut write: impl FnMut(f32, usize, &mut [f32])) {
        let (block, mut at) = (self.layout.block, start);
        while !out.is_empty() {
            let here = (block - at % block).min(out.len());
            let (part, rest) = out.split_at_mut(here);
            write(self.scale(at / block), at, part);
            (at, out) = (at + here, rest);
        }
    }

    fn nibbles(&self, table: &[f32; 16], start: usize, out: &mut [f32]) {
        let (way, dtype) = (Way::best(), self.layout.dtype);
        self.blocks(start, out, |scale, at, out| {
            let mut values = table.map(|value| value * scale);
            round(&mut values, dtype);
            way.look_up(&values, self.codes, at, out);
        });
    }

    fn bytes(&self, start: usize, out: &mut [f32]) {
        let dtype = self.layout.dtype;
        self.blocks(start, out, |scale, at, out| {
            let codes = &self.codes[at..][..out.len()];
            vectorized(
                #[inline(always)]
                || {
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = f32::from(*code as i8) * scale * INT8_STEP;
                    }
                    round(out, dtype);
                },
            );
        });
    }

    /// The scale of a block.
    fn scale(&self, block: usize) -> f32 {
        if !self.layout.nested {
            return self.scales[block];
        }
        let code = self.codes[self.layout.code_bytes() + block];
        let offset = self.scales.last().copied().unwrap_or_default();
        MAP[usize::from(code)] * self.scales[block / NESTED_BLOCK] + offset
    }
}
