//! A packed matrix in host memory, to be read.

use burn::tensor::DType;
use half::f16;

use super::codes::{FP4, NF4};
use super::layout::{Format, NESTED_BLOCK, PackedLayout};
use super::nested::MAP;
use crate::simd::{narrow, widen};

/// Rounds values to `dtype`.
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
        let table = match self.layout.format {
            Format::Nf4 => &NF4,
            Format::Fp4 => &FP4,
        };
        let block = self.layout.block;
        let mut at = start;
        let mut out = out;
        while !out.is_empty() {
            let here = (block - at % block).min(out.len());
            let (part, rest) = out.split_at_mut(here);
            let scale = self.scale(at / block);
            for (i, out) in (at..).zip(part.iter_mut()) {
                let byte = self.codes[i / 2];
                let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
                *out = table[usize::from(code)] * scale;
            }
            round(part, self.layout.dtype);
            (at, out) = (at + here, rest);
        }
    }

    /// The scale of a block.
    fn scale(&self, block: usize) -> f32 {
        if !self.layout.nested {
            return self.scales[block];
        }
        let code = self.codes[self.layout.num_values().div_ceil(2) + block];
        let offset = self.scales.last().copied().unwrap_or_default();
        MAP[usize::from(code)] * self.scales[block / NESTED_BLOCK] + offset
    }
}
