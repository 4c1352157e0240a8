//! How the values of a packed weight are stored.

use burn::tensor::DType;

/// What the codes of a packed weight stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The 4-bit normal float of QLoRA (Dettmers et al. 2023), as bitsandbytes stores it.
    Nf4,
    /// bitsandbytes' 4-bit float.
    Fp4,
}

impl Format {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }
}

/// How a packed matrix `[rows, cols]` is stored.
///
/// - `Nf4`, `Fp4`: blocks of `block` values over the flattened matrix, two codes a byte, the first in the high nibble. Each
///   block has a scale in f32; if `nested`, the scales are codes themselves, which follow the values' codes, and the f32
///   scales are those of 256 of them each, with the offset that was subtracted as the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedLayout {
    /// What a code stands for.
    pub format: Format,
    /// Values that share a scale.
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
    /// How many values there are.
    pub fn num_values(&self) -> usize {
        self.rows * self.cols
    }

    /// How many blocks there are.
    pub fn num_blocks(&self) -> usize {
        self.num_values().div_ceil(self.block)
    }

    /// Bytes of the codes, those of nested scales included.
    pub fn num_bytes(&self) -> usize {
        self.num_values().div_ceil(2) + if self.nested { self.num_blocks() } else { 0 }
    }

    /// How many f32 scales there are.
    pub fn num_scales(&self) -> usize {
        if self.nested { self.num_blocks().div_ceil(NESTED_BLOCK) + 1 } else { self.num_blocks() }
    }
}
