//! Operations with their own backward, and what their CPU versions are built from.
//!
//! Each operation is a Burn backend extension: a trait whose default body composes ordinary tensor operations, so that
//! every backend has it, an implementation for `Autodiff` that keeps only what its backward reads, and one for `Flex`
//! that works on slices.

mod columns;
pub mod flex;
mod linear;
pub mod matrix;
pub mod rows;
mod scaled_linear;
pub mod simd;
#[cfg(test)]
mod testing;
mod vera_linear;
mod workers;

pub use columns::{ColumnOps, scale_columns};
pub(crate) use linear::can_join;
pub use linear::{ProjectionOps, linear, lora_linear};
pub use scaled_linear::{ScaledProjectionOps, dora_linear, scaled_linear};
pub use vera_linear::{VeraOps, VeraVectors, vera_linear};
pub use workers::on_workers;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::DType;

/// `x` in `dtype`, without a copy where it is in it already.
pub fn cast<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) }
}
