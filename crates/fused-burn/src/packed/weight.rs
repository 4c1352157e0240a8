//! The weight of a projection: a tensor, or packed.

use burn::backend::Dispatch;
use burn::tensor::{Bytes, DType, Device, Int, Tensor, TensorData};

use super::layout::PackedLayout;
use crate::base_linear::{BaseWeight, BaseWeightOps};

/// A frozen matrix `[rows, cols]` whose values are codes. Clones share its memory; it is no parameter and has no gradient.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    codes: Tensor<1, Int>,
    scales: Tensor<1>,
    layout: PackedLayout,
}

impl PackedWeight {
    /// The matrix of these codes and scales, on `device`.
    ///
    /// # Panics
    /// When their numbers are not those of the layout ([`PackedLayout::num_bytes`], [`PackedLayout::num_scales`]).
    pub fn new(codes: Vec<u8>, scales: Vec<f32>, layout: PackedLayout, device: &Device) -> Self {
        Self::of_bytes(Bytes::from_bytes_vec(codes), scales, layout, device)
    }

    /// As [`Self::new`], of bytes that may lie in a mapped file: in host memory they stay where they are.
    pub(super) fn of_bytes(codes: Bytes, scales: Vec<f32>, layout: PackedLayout, device: &Device) -> Self {
        assert_eq!(codes.len(), layout.num_bytes(), "bytes of codes");
        assert_eq!(scales.len(), layout.num_scales(), "scales");
        let device = device.clone().inner();
        // A tensor of nothing is none that every device has.
        let scales = if scales.is_empty() { vec![0.0] } else { scales };
        let (bytes, count) = (codes.len(), scales.len());
        let codes = if device == Device::flex() {
            Tensor::from_data(TensorData::from_bytes(codes, [bytes], DType::U8), (&device, DType::U8))
        } else {
            let words: Vec<i32> = codes.chunks(4).map(word).collect();
            let count = words.len();
            Tensor::from_data(TensorData::new(words, [count]), (&device, DType::I32))
        };
        let scales = Tensor::from_data(TensorData::new(scales, [count]), (&device, DType::F32));
        Self { codes, scales, layout }
    }

    /// How it is stored.
    pub fn layout(&self) -> &PackedLayout {
        &self.layout
    }

    /// Bytes that it takes in memory.
    pub fn num_bytes(&self) -> usize {
        self.codes.dims()[0] * self.codes.dtype().size() + self.layout.num_scales() * DType::F32.size()
    }

    /// The device that it is on.
    pub fn device(&self) -> Device {
        self.scales.device()
    }

    /// The same on `device`.
    pub fn to_device(&self, device: &Device) -> Self {
        let device = device.clone().inner();
        if device == self.device() {
            return self.clone();
        }
        let (codes, scales) = (self.bytes(), self.scales());
        Self::new(codes, scales, self.layout, &device)
    }

    /// The codes, in the order of the format.
    pub fn bytes(&self) -> Vec<u8> {
        let data = self.codes.clone().into_data();
        if data.dtype() == DType::U8 {
            return data.try_into_vec::<u8>().unwrap_or_default();
        }
        let mut bytes: Vec<u8> = data.iter::<i32>().flat_map(i32::to_le_bytes).collect();
        bytes.truncate(self.layout.num_bytes());
        bytes
    }

    /// The scales.
    pub fn scales(&self) -> Vec<f32> {
        let data = self.scales.clone().into_data();
        data.iter::<f32>().take(self.layout.num_scales()).collect()
    }

    /// All values, in the layout's dtype: `[rows, cols]`.
    pub fn dense(&self) -> Tensor<2> {
        self.rows(0, self.layout.rows)
    }

    /// The values of `count` rows from `start` on, in the layout's dtype: `[count, cols]`.
    pub fn rows(&self, start: usize, count: usize) -> Tensor<2> {
        let weight = self.clone().into_base();
        Tensor::from_dispatch(<Dispatch as BaseWeightOps>::weight_rows(weight, start, count))
    }

    /// The rows `ids` (`[n]`), in the layout's dtype: `[n, cols]`.
    pub fn select(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let weight = self.clone().into_base();
        Tensor::from_dispatch(<Dispatch as BaseWeightOps>::weight_select(weight, ids.into_dispatch()))
    }

    fn into_base(self) -> BaseWeight<Dispatch> {
        BaseWeight::Packed {
            codes: self.codes.into_dispatch(),
            scales: self.scales.into_dispatch(),
            layout: self.layout,
        }
    }
}

fn word(bytes: &[u8]) -> i32 {
    let mut word = [0; 4];
    word[..bytes.len()].copy_from_slice(bytes);
    i32::from_le_bytes(word)
}

/// The weight `[out, in]` of a projection.
#[allow(clippy::large_enum_variant)] // handles both; few are alive, and a box would cost each clone an allocation
#[derive(Clone, Debug)]
pub enum Weight {
    /// Its values.
    Dense(Tensor<2>),
    /// Codes.
    Packed(PackedWeight),
}

impl From<Tensor<2>> for Weight {
    fn from(weight: Tensor<2>) -> Self {
        Self::Dense(weight)
    }
}

impl From<PackedWeight> for Weight {
    fn from(weight: PackedWeight) -> Self {
        Self::Packed(weight)
    }
}

impl Weight {
    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Packed(weight) => [weight.layout.rows, weight.layout.cols],
        }
    }

    /// The dtype of its values.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Packed(weight) => weight.layout.dtype,
        }
    }

    /// The device that it is on.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.device(),
            Self::Packed(weight) => weight.device(),
        }
    }

    /// Whether it is trained.
    pub fn is_tracked(&self) -> bool {
        matches!(self, Self::Dense(weight) if weight.is_tracked())
    }

    /// Whether it is packed.
    pub fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// All of its values; those of a packed weight are decoded.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone(),
            Self::Packed(weight) => weight.dense(),
        }
    }

    /// The values of `count` rows from `start` on: `[count, in]`.
    pub fn rows(&self, start: usize, count: usize) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone().narrow(0, start, count),
            Self::Packed(weight) => weight.rows(start, count),
        }
    }

    /// The rows `ids` (`[n]`), as of an embedding: `[n, in]`.
    pub fn select(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.clone().select(0, ids),
            Self::Packed(weight) => weight.select(ids),
        }
    }

    /// Bytes that it takes in memory.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.shape().num_elements() * weight.dtype().size(),
            Self::Packed(weight) => weight.num_bytes(),
        }
    }

    /// Outside of any autodiff graph.
    #[must_use]
    pub fn detach(self) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(weight.detach()),
            packed => packed,
        }
    }

    /// As an operation's argument.
    pub fn into_base(self) -> BaseWeight<Dispatch> {
        match self {
            Self::Dense(weight) => BaseWeight::Dense(weight.into_dispatch()),
            Self::Packed(weight) => weight.into_base(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::packed::Format;

    #[test]
    fn bytes_in_host_memory_stay_where_they_are() {
        let blocks: Vec<u8> = (0..4 * 34).collect();
        let stored = Bytes::from_bytes_vec(blocks.clone());
        let other = PackedWeight::from_blocks(Format::Q8_0, stored, [2, 64], DType::F32, &Device::flex()).unwrap();
        assert_eq!((other.bytes(), other.num_bytes()), (blocks.clone(), blocks.len()));
        let stored = Bytes::from_bytes_vec(blocks);
        let place = stored.as_ptr();
        let weight = PackedWeight::from_blocks(Format::Q8_0, stored, [2, 64], DType::F32, &Device::flex()).unwrap();
        let codes = weight.codes.try_into_primitive::<Flex>().unwrap();
        assert_eq!(codes.as_slice::<u8>().unwrap().as_ptr(), place);
    }
}
