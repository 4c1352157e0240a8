//! How the values of a packed weight are stored.

use burn::tensor::DType;

/// The meaning of the codes of a packed weight.
#[allow(non_camel_case_types)] // llama.cpp's names
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The 4-bit normal float of QLoRA (Dettmers et al. 2023), as bitsandbytes stores it.
    Nf4,
    /// bitsandbytes' 4-bit float.
    Fp4,
    /// The 8-bit integers of LLM.int8() (Dettmers et al. 2022), one scale a row, as bitsandbytes stores them.
    Int8,
    /// llama.cpp's blocks of 32 values, 8 bits each, and a scale.
    Q8_0,
    /// llama.cpp's blocks of 32 values, 4 bits each, and a scale.
    Q4_0,
    /// llama.cpp's blocks of 32 values, 4 bits each, a scale and a minimum.
    Q4_1,
    /// llama.cpp's blocks of 32 values, 5 bits each, and a scale.
    Q5_0,
    /// llama.cpp's blocks of 32 values, 5 bits each, a scale and a minimum.
    Q5_1,
    /// llama.cpp's blocks of 256 values, 4 bits each, with scales and minima of 6 bits for 32 of them.
    Q4_K,
    /// llama.cpp's blocks of 256 values, 5 bits each, with scales and minima of 6 bits for 32 of them.
    Q5_K,
    /// llama.cpp's blocks of 256 values, 6 bits each, with scales of 8 bits for 16 of them.
    Q6_K,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Nf4,
        Self::Fp4,
        Self::Int8,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Its name: bitsandbytes' in configurations, or llama.cpp's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Int8 => "int8",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// How many values a block of llama.cpp holds, in how many bytes; `None` for bitsandbytes' formats, whose scales lie
    /// apart from the codes.
    pub fn block(self) -> Option<(usize, usize)> {
        match self {
            Self::Nf4 | Self::Fp4 | Self::Int8 => None,
            Self::Q8_0 => Some((32, 34)),
            Self::Q4_0 => Some((32, 18)),
            Self::Q4_1 => Some((32, 20)),
            Self::Q5_0 => Some((32, 22)),
            Self::Q5_1 => Some((32, 24)),
            Self::Q4_K => Some((256, 144)),
            Self::Q5_K => Some((256, 176)),
            Self::Q6_K => Some((256, 210)),
        }
    }
}

/// How a packed matrix `[rows, cols]` is stored.
///
/// - `Nf4`, `Fp4`: blocks of `block` values over the flattened matrix, two codes a byte, the first in the high nibble. Each
///   block has a scale in f32; if `nested`, the scales are codes themselves, which follow the values' codes, and the f32
///   scales are those of 256 of them each, with the offset that was subtracted as the last.
/// - `Int8`: a signed byte for each value. A row is a block; its scale is its largest absolute value, which 127 stands for.
/// - llama.cpp's: blocks within rows, as they lie in a GGUF file. The scales are in the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedLayout {
    /// The value of a code.
    pub format: Format,
    /// Values that share a scale, or lie in one of llama.cpp's blocks.
    pub block: usize,
    /// Whether the scales are quantised too.
    pub nested: bool,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// The dtype that decoded values are rounded to.
    pub dtype: DType,
}

/// Scales that share a scale of their own.
pub(super) const NESTED_BLOCK: usize = 256;

impl PackedLayout {
    /// The layout of llama.cpp's blocks or of `Int8`, of which the format says everything.
    ///
    /// # Panics
    /// For `Nf4` and `Fp4`, whose blocks may have any size.
    pub fn of(format: Format, [rows, cols]: [usize; 2], dtype: DType) -> Self {
        assert!(!matches!(format, Format::Nf4 | Format::Fp4), "{} has blocks of several sizes", format.name());
        let block = format.block().map_or(cols, |(values, _)| values);
        Self { format, block, nested: false, rows, cols, dtype }
    }

    /// How many values there are.
    pub fn num_values(&self) -> usize {
        self.rows * self.cols
    }

    /// How many blocks there are.
    pub fn num_blocks(&self) -> usize {
        self.num_values().div_ceil(self.block.max(1))
    }

    /// Bytes of the values' codes.
    pub(super) fn code_bytes(&self) -> usize {
        match self.format.block() {
            Some((values, bytes)) => self.num_values() / values * bytes,
            None if self.format == Format::Int8 => self.num_values(),
            None => self.num_values().div_ceil(2),
        }
    }

    /// Bytes of the codes, those of nested scales included.
    pub fn num_bytes(&self) -> usize {
        self.code_bytes() + if self.nested { self.num_blocks() } else { 0 }
    }

    /// How many f32 scales there are.
    pub fn num_scales(&self) -> usize {
        match self.format.block() {
            Some(_) => 0,
            None if self.nested => self.num_blocks().div_ceil(NESTED_BLOCK) + 1,
            None => self.num_blocks(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_formats() {
        let (rows, cols, dtype) = (3, 512, DType::F32);
        let nf4 = PackedLayout { format: Format::Nf4, block: 64, nested: false, rows, cols, dtype };
        assert_eq!((nf4.num_bytes(), nf4.num_scales()), (768, 24));
        let nested = PackedLayout { nested: true, ..nf4 };
        assert_eq!((nested.num_bytes(), nested.num_scales()), (768 + 24, 2));
        let odd = PackedLayout { rows: 5, cols: 13, ..nested };
        assert_eq!((odd.num_bytes(), odd.num_scales()), (33 + 2, 2));
        let int8 = PackedLayout::of(Format::Int8, [rows, cols], dtype);
        assert_eq!((int8.num_bytes(), int8.num_scales()), (1536, 3));
        let q4_k = PackedLayout::of(Format::Q4_K, [rows, cols], dtype);
        assert_eq!((q4_k.num_bytes(), q4_k.num_scales(), q4_k.num_blocks()), (864, 0, 6));
    }
}
