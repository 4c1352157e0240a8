//! A few rows that are multiplied with codes as they are read.

use burn::tensor::DType;

use super::ggml::PART;
use super::layout::{Format, PackedLayout};
#[cfg(target_arch = "x86_64")]
use super::nibbles::Ordered;

/// Rows, ready to be multiplied with the codes of a format.
#[derive(Debug)]
pub(crate) enum FewRows<'a> {
    /// With llama.cpp's blocks.
    Blocks(Vec<&'a [f32]>),
    /// With rows of 8-bit integers.
    Bytes(Vec<&'a [f32]>),
    /// With bitsandbytes' 4-bit codes.
    #[cfg(target_arch = "x86_64")]
    Nibbles(Ordered),
}

impl<'a> FewRows<'a> {
    /// `rows`, for codes from multiples of `step` on; `None` where values are to be decoded first.
    pub(super) fn new(layout: PackedLayout, rows: Vec<&'a [f32]>, step: usize) -> Option<Self> {
        match layout.format {
            #[cfg(target_arch = "x86_64")]
            Format::Nf4 | Format::Fp4 => {
                Ordered::new(rows.into_iter(), [layout.block, step], layout.dtype).map(Self::Nibbles)
            }
            #[cfg(not(target_arch = "x86_64"))]
            Format::Nf4 | Format::Fp4 => None,
            // All values of a stretch share a scale.
            Format::Int8 => {
                let within =
                    layout.dtype != DType::F16 && step == layout.block && rows.iter().all(|row| row.len() <= step);
                within.then_some(Self::Bytes(rows))
            }
            _ => {
                let whole = step.is_multiple_of(PART) && rows.iter().all(|row| row.len().is_multiple_of(PART));
                whole.then_some(Self::Blocks(rows))
            }
        }
    }
}
