#![doc = include_str!("../README.md")]
//!
//! # How it is built
//!
//! Each operation has a folder. Its trait is a Burn backend extension: the default body composes ordinary tensor
//! operations (`composed.rs`), so that every backend has it. `Autodiff` implements the trait with a backward that keeps
//! only what it reads, `Flex`, Burn's backend for the CPU, with loops over slices (`cpu.rs`), and where it pays Burn's backend for
//! GPUs with kernels in CubeCL (`gpu.rs`). Operations of one's own can be built from the same parts: [`matrix`] products, [`rows`], [`simd`] loops and the slices of [`flex`] tensors.

mod attention;
mod base_linear;
mod block_attention;
mod columns;
mod cross_entropy;
pub mod flex;
#[cfg(feature = "cube")]
mod gpu;
mod host;
mod linear;
mod masked_attention;
pub mod matrix;
mod packed;
mod precision;
mod rms_norm;
mod rope;
mod row_updates;
pub mod rows;
mod scaled_linear;
mod scores;
pub mod simd;
mod swiglu;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod together;
mod workers;

pub use attention::{AttentionOps, AttentionShape, Starts, causal_attention};
pub use base_linear::{BaseWeight, BaseWeightOps, FlexWeight, base_linear, can_join};
pub use block_attention::{Block, BlockLayer, BlockRows, BlockShape, block_attention};
pub use columns::{ColumnOps, scale_columns};
pub use cross_entropy::{CrossEntropyOps, LogitRule, cross_entropy, cross_entropy_with};
pub use linear::{ProjectionOps, linear};
pub use masked_attention::{MaskedAttentionOps, masked_attention, masked_attention_with};
pub use packed::{
    BitsAndBytes, Format, PackedLayout, PackedView, PackedWeight, Quantization, QuantizeError, Scales, Weight,
};
pub use precision::cast;
pub use rms_norm::{RmsNormOps, offset_rms_norm, rms_norm};
pub use rope::{RopeOps, partial_rope, rope};
pub use row_updates::{RowGroup, RowLowRank, RowShared, RowUpdate, SharedPair, scale_rows, update_rows};
pub use scaled_linear::{ScaledProjectionOps, Scaling, can_tell, scaled_linear};
pub use scores::Scores;
pub use swiglu::{Activation, SwigluOps, glu, scaled_glu, scaled_swiglu, swiglu};
pub use together::{AdamWParameter, AdamWStep, AnyTensor, TogetherOps, adam_w, better_together, sum_of_squares};
pub use workers::on_workers;
