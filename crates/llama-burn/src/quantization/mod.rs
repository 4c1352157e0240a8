//! Bases whose weights are packed: quantised while they are loaded, or stored so.
//!
//! The weights of decoder layers' projections are packed; embeddings, norms and the head stay dense, as with bitsandbytes. What is
//! stored in a GGUF file stays as it lies there.

mod bitsandbytes;
mod config;
mod merged;
mod options;
mod quantize;

pub(crate) use bitsandbytes::{StoredWeights, tensors_of};
pub use config::BaseQuantization;
pub use fused_burn::Format;
pub use merged::{PackedMergeReport, merge_into_packed};
pub use options::{LoadOptions, QuantizationKind, Quantize};
pub use quantize::{QuantizeReport, packed_bytes, quantize_into};
