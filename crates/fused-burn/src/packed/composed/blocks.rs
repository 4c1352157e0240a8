//! llama.cpp's blocks (see [`ggml`](super::super::ggml)) in tensor operations.

use burn::backend::Backend;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{Shape, Slice};

use super::bits::{bytes, floats, layers, look_up, scaled, signed, spread};
use crate::packed::layout::Format;

/// Values that share a scale in blocks of 256, for 4 and 5 bits.
const PART: usize = 32;

/// The values `first..end`, whole blocks of them.
pub(super) fn decode<B: Backend>(format: Format, words: IntTensor<B>, [first, end]: [usize; 2]) -> FloatTensor<B> {
    let (values, size) = format.block().unwrap_or((1, 1));
    let n = (end - first) / values;
    let all = bytes::<B>(words, [first / values * size, end / values * size]);
    let blocks = Blocks::<B> { bytes: B::int_reshape(all, Shape::from([n, size])), n };
    match format {
        Format::Q8_0 => {
            let codes = floats::<B>(signed::<B>(blocks.at(2, PART)));
            scaled::<B>(codes, [n, PART], blocks.half(0))
        }
        Format::Q4_0 => blocks.centred(blocks.nibbles(2), 8.0),
        Format::Q5_0 => blocks.centred(blocks.fives(6, 2), 16.0),
        Format::Q4_1 => blocks.above(blocks.nibbles(4)),
        Format::Q5_1 => blocks.above(blocks.fives(8, 4)),
        Format::Q4_K => blocks.k(blocks.k_nibbles(16)),
        Format::Q5_K => {
            let high = B::int_reshape(blocks.at(16, PART), Shape::from([n, 1, PART]));
            let high = layers::<B>(high, 1, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
            blocks.k(with_upper::<B>(blocks.k_nibbles(48), high, 16))
        }
        Format::Q6_K => blocks.q6_k(),
        Format::Nf4 | Format::Fp4 | Format::Int8 => unreachable!("bitsandbytes' formats have no such blocks"),
    }
}

/// `low + upper·step`.
fn with_upper<B: Backend>(low: IntTensor<B>, upper: IntTensor<B>, step: i32) -> IntTensor<B> {
    B::int_add(low, B::int_mul_scalar(upper, step.into()))
}

/// `[n, size]` bytes.
struct Blocks<B: Backend> {
    bytes: IntTensor<B>,
    n: usize,
}

impl<B: Backend> Blocks<B> {
    /// `count` bytes of each block: `[n, count]`.
    fn at(&self, start: usize, count: usize) -> IntTensor<B> {
        B::int_slice(self.bytes.clone(), &[Slice::from(..), Slice::from(start..start + count)])
    }

    /// The f16 at `start` of each block: `[n]`.
    fn half(&self, start: usize) -> FloatTensor<B> {
        let bits = with_upper::<B>(self.at(start, 1), self.at(start + 1, 1), 256);
        let bits = B::int_reshape(bits, Shape::from([self.n]));
        // By sign and exponent: what a step of the mantissa is, and what is added.
        let sign = |i: usize| if i < 32 { 1.0 } else { -1.0 };
        let step = |i: usize| sign(i) * (-24.0 + (i % 32).max(1) as f32 - 1.0).exp2();
        let steps: [f32; 64] = std::array::from_fn(|i| if i % 32 == 31 { 0.0 } else { step(i) });
        let least: [f32; 64] = std::array::from_fn(|i| match i % 32 {
            0 => 0.0,
            31 => sign(i) * f32::INFINITY,
            _ => step(i) * 1024.0,
        });
        let upper = B::bitwise_and_scalar(B::bitwise_right_shift_scalar(bits.clone(), 10.into()), 63.into());
        let mantissa = floats::<B>(B::bitwise_and_scalar(bits, 1023.into()));
        B::float_add(B::float_mul(look_up::<B>(upper.clone(), &steps), mantissa), look_up::<B>(upper, &least))
    }

    /// The codes of 32 values in 16 bytes: the lower halves, then the upper ones.
    fn nibbles(&self, start: usize) -> IntTensor<B> {
        layers::<B>(self.at(start, PART / 2), 1, &[0, 4], 15)
    }

    /// As [`Self::nibbles`], with a fifth bit for each in the four bytes at `high`.
    fn fives(&self, start: usize, high: usize) -> IntTensor<B> {
        let high = B::int_reshape(self.at(high, 4), Shape::from([self.n, 4, 1]));
        let high = layers::<B>(high, 2, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
        with_upper::<B>(self.nibbles(start), B::int_reshape(high, Shape::from([self.n, PART])), 16)
    }

    /// Codes around a middle, times the scale.
    fn centred(&self, codes: IntTensor<B>, middle: f32) -> FloatTensor<B> {
        let codes = B::float_sub_scalar(floats::<B>(codes), middle.into());
        scaled::<B>(codes, [self.n, PART], self.half(0))
    }

    /// Codes times the scale, above a minimum.
    fn above(&self, codes: IntTensor<B>) -> FloatTensor<B> {
        let shape = [self.n, PART];
        B::float_add(scaled::<B>(floats::<B>(codes), shape, self.half(0)), spread::<B>(self.half(2), shape))
    }

    /// The codes of 256 values in 128 bytes: of 32 bytes each the lower halves, then the upper ones.
    fn k_nibbles(&self, start: usize) -> IntTensor<B> {
        let codes = B::int_reshape(self.at(start, 128), Shape::from([self.n, 4, 1, PART]));
        B::int_reshape(layers::<B>(codes, 2, &[0, 4], 15), Shape::from([self.n, 8, PART]))
    }

    /// Codes of 8 parts `[n, 8, 32]` times their scales, less their minima.
    fn k(&self, codes: IntTensor<B>) -> FloatTensor<B> {
        let low = |start: usize| B::bitwise_and_scalar(self.at(start, 4), 63.into());
        let upper = |start: usize| B::bitwise_right_shift_scalar(self.at(start, 4), 6.into());
        let last = self.at(12, 4);
        let scales = with_upper::<B>(B::bitwise_and_scalar(last.clone(), 15.into()), upper(4), 16);
        let minima = with_upper::<B>(B::bitwise_right_shift_scalar(last, 4.into()), upper(8), 16);
        let times = |first, rest, half| scaled::<B>(floats::<B>(B::int_cat(vec![first, rest], 1)), [self.n, 8], half);
        let scales = times(low(4), scales, self.half(0));
        let minima = times(low(8), minima, self.half(2));
        let shape = [8 * self.n, PART];
        B::float_sub(scaled::<B>(floats::<B>(codes), shape, scales), spread::<B>(minima, shape))
    }

    fn q6_k(&self) -> FloatTensor<B> {
        // Halves of 128 values; in each, 64 bytes of lower bits in two layers, and 32 of upper bits in four.
        let low = layers::<B>(B::int_reshape(self.at(0, 128), Shape::from([self.n, 2, 64])), 2, &[0, 4], 15);
        let high = layers::<B>(B::int_reshape(self.at(128, 64), Shape::from([self.n, 2, PART])), 2, &[0, 2, 4, 6], 3);
        let codes = B::float_sub_scalar(floats::<B>(with_upper::<B>(low, high, 16)), 32.0f32.into());
        let scales = scaled::<B>(floats::<B>(signed::<B>(self.at(192, 16))), [self.n, 16], self.half(208));
        scaled::<B>(codes, [16 * self.n, 16], scales)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::{DType, TensorData};
    use half::f16;

    use super::*;

    fn widened<B: Backend>(bytes: Vec<i32>, n: usize) -> FloatTensor<B> {
        let bytes = B::int_from_data(TensorData::new(bytes, [n, 2]), &Default::default());
        Blocks::<B> { bytes, n }.half(0)
    }

    #[test]
    fn finite_halves_are_widened_exactly() {
        let bits: Vec<i32> = (0..1 << 16).filter(|bits| bits & 0x7c00 != 0x7c00).collect();
        let bytes: Vec<i32> = bits.iter().flat_map(|bits| [bits & 255, bits >> 8]).collect();
        let found = widened::<Flex>(bytes, bits.len()).into_data();
        assert_eq!(found.dtype(), DType::F32);
        for (found, bits) in found.iter::<f32>().zip(bits) {
            assert_eq!(found, f16::from_bits(bits as u16).to_f32());
        }
    }
}
