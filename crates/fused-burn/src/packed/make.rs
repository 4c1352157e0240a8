//! Packed weights from values, from what bitsandbytes' files hold, and from a GGUF file's blocks.

use burn::tensor::{Bytes, DType, Device, Tensor};
use half::{bf16, f16};

use super::error::QuantizeError;
use super::layout::{Format, NESTED_BLOCK, PackedLayout};
use super::quantise::{Quantization, quantize};
use super::weight::PackedWeight;
use crate::simd::widen;

/// The scales of a weight, as bitsandbytes' files hold them.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One for each block (`absmax`, or `SCB` of 8 bits).
    Plain(Vec<f32>),
    /// Quantised too.
    Nested {
        /// One code for each block (`absmax`).
        codes: Vec<u8>,
        /// One for 256 of the codes each (`nested_absmax`).
        absmax: Vec<f32>,
        /// The number subtracted from the scales (`nested_offset`).
        offset: f32,
    },
}

/// A weight as bitsandbytes' files hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct BitsAndBytes {
    /// `Nf4`, `Fp4` or `Int8`.
    pub format: Format,
    /// Values that share a scale; of `Int8` whatever it says, a row.
    pub block: usize,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Two codes a byte (`weight`, `[n / 2, 1]`), or of `Int8` one.
    pub codes: Vec<u8>,
    /// The scales.
    pub scales: Scales,
}

impl PackedWeight {
    /// Quantises a matrix as bitsandbytes does, on all threads: the first-level codes and the decoded values are its own to the
    /// bit, the codes of nested scales within one step. `Int8` values are made f16 first, as its layer does.
    ///
    /// Decoded values are rounded to `dtype`.
    ///
    /// # Errors
    /// A shape that [`Quantization::layout`] refuses, a weight in another dtype than f32, bf16 or f16, and values that are not finite.
    pub fn quantize(
        weight: Tensor<2>,
        how: Quantization,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, QuantizeError> {
        let (layout, data) = (how.layout(weight.dims(), dtype)?, weight.into_data());
        let unread = |_| QuantizeError::Dtype(data.dtype());
        let (codes, scales) = match data.dtype() {
            DType::F32 => quantize(data.as_slice::<f32>().map_err(unread)?, |v| v, &layout),
            DType::BF16 => quantize(data.as_slice::<bf16>().map_err(unread)?, widen, &layout),
            DType::F16 => quantize(data.as_slice::<f16>().map_err(unread)?, f16::to_f32, &layout),
            other => Err(QuantizeError::Dtype(other)),
        }?;
        Ok(Self::new(codes, scales, layout, device))
    }

    /// As [`Self::quantize`], of values in order.
    ///
    /// # Errors
    /// As there, and values that are not as many as the shape needs.
    pub fn quantize_values(
        values: &[f32],
        shape: [usize; 2],
        how: Quantization,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, QuantizeError> {
        let layout = how.layout(shape, dtype)?;
        expect("values", values.len(), layout.num_values(), &layout)?;
        let (codes, scales) = quantize(values, |v| v, &layout)?;
        Ok(Self::new(codes, scales, layout, device))
    }

    /// A weight that was read from bitsandbytes' files. Decoded values are rounded to `dtype`.
    ///
    /// # Errors
    /// Sizes that do not fit each other, and a format or a block that bitsandbytes does not have.
    pub fn from_bitsandbytes(stored: BitsAndBytes, dtype: DType, device: &Device) -> Result<Self, QuantizeError> {
        let BitsAndBytes { format, block, shape, mut codes, scales } = stored;
        let nested = matches!(scales, Scales::Nested { .. });
        let layout = Quantization { format, block, double_quantization: nested }.layout(shape, dtype)?;
        if nested && !layout.nested {
            return Err(QuantizeError::Layout { shape, format, block: layout.block, nested });
        }
        expect("bytes of codes", codes.len(), layout.code_bytes(), &layout)?;
        let scales = match scales {
            Scales::Plain(scales) => {
                expect("scales", scales.len(), layout.num_blocks(), &layout)?;
                scales
            }
            Scales::Nested { codes: nested, mut absmax, offset } => {
                expect("codes of scales", nested.len(), layout.num_blocks(), &layout)?;
                expect("scales of scales", absmax.len(), layout.num_blocks().div_ceil(NESTED_BLOCK), &layout)?;
                codes.extend(nested);
                absmax.push(offset);
                absmax
            }
        };
        Ok(Self::new(codes, scales, layout, device))
    }

    /// As bitsandbytes' files hold it; `None` for llama.cpp's formats.
    pub fn to_bitsandbytes(&self) -> Option<BitsAndBytes> {
        let layout = *self.layout();
        let (mut codes, mut scales) = (self.bytes(), self.scales());
        if layout.format.block().is_some() {
            return None;
        }
        let scales = if layout.nested {
            let offset = scales.pop()?;
            Scales::Nested { codes: codes.split_off(layout.code_bytes()), absmax: scales, offset }
        } else {
            Scales::Plain(scales)
        };
        let (format, block, shape) = (layout.format, layout.block, [layout.rows, layout.cols]);
        Some(BitsAndBytes { format, block, shape, codes, scales })
    }

    /// A weight of llama.cpp's blocks, as they lie in a GGUF file. In host memory they stay where they are, which may be a
    /// mapped file (`Bytes::from_shared`). Decoded values are rounded to `dtype`.
    ///
    /// # Errors
    /// A format of bitsandbytes', rows that are no whole blocks, and bytes that are not as many as the shape needs.
    pub fn from_blocks(
        format: Format,
        blocks: Bytes,
        shape: [usize; 2],
        dtype: DType,
        device: &Device,
    ) -> Result<Self, QuantizeError> {
        let block = format.block().map_or(0, |(values, _)| values);
        if block == 0 || !shape[1].is_multiple_of(block) {
            return Err(QuantizeError::Layout { shape, format, block, nested: false });
        }
        let layout = PackedLayout::of(format, shape, dtype);
        expect("bytes of blocks", blocks.len(), layout.num_bytes(), &layout)?;
        Ok(Self::of_bytes(blocks, Vec::new(), layout, device))
    }
}

fn expect(what: &'static str, found: usize, expected: usize, layout: &PackedLayout) -> Result<(), QuantizeError> {
    let (shape, format) = ([layout.rows, layout.cols], layout.format);
    if found == expected { Ok(()) } else { Err(QuantizeError::Length { what, found, expected, shape, format }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
