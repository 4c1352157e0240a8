//! Reasons why something cannot be a packed weight.

use burn::tensor::DType;
use thiserror::Error;

use super::layout::Format;

/// Why a weight cannot be packed.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum QuantizeError {
    /// A format that weights are read in only.
    #[error("nothing is quantised to {} here; nf4, fp4 and int8 are possible", .0.name())]
    Format(Format),
    /// A block of a size that bitsandbytes does not have.
    #[error("blocks of {0} values; 32, 64, 128, 256, 512, 1024, 2048 and 4096 are possible")]
    Block(usize),
    /// A weight in another dtype than f32, bf16 or f16.
    #[error("a weight in {0:?}; f32, bf16 and f16 can be quantised")]
    Dtype(DType),
    /// Values that no code stands for.
    #[error("{count} values have no code in {}: the first, in row {} and column {}, is {value}", .format.name(), .at[0], .at[1])]
    Values {
        /// How many.
        count: usize,
        /// Row and column of the first.
        at: [usize; 2],
        /// The first.
        value: f32,
        /// The format that they should have become.
        format: Format,
    },
    /// A layout that the format does not have.
    #[error("a matrix of {} x {} in {} cannot have blocks of {block}{}", .shape[0], .shape[1], .format.name(),
            if *.nested { " with nested scales" } else { "" })]
    Layout {
        /// Rows and columns.
        shape: [usize; 2],
        /// The format.
        format: Format,
        /// Values in a block.
        block: usize,
        /// Whether the scales are quantised too.
        nested: bool,
    },
    /// Codes or scales that are not as many as the shape needs.
    #[error("{found} {what} for a matrix of {} x {} in {}, which has {expected}", .shape[0], .shape[1], .format.name())]
    Length {
        /// The part that is too short or too long.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
        /// Rows and columns.
        shape: [usize; 2],
        /// The format.
        format: Format,
    },
}
