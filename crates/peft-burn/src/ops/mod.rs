//! Operations with their own backward, and what their CPU versions are built from.
//!
//! Each operation is a Burn backend extension: a trait whose default body composes ordinary tensor operations, so that
//! every backend has it, an implementation for `Autodiff` that keeps only what its backward reads, and one for `Flex`
//! that works on slices.

pub mod flex;
mod linear;
pub mod matrix;
pub mod rows;
pub mod simd;

pub(crate) use linear::try_lora_linear;
pub use linear::{ProjectionOps, linear, lora_linear};
