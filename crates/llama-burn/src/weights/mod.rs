//! Checkpoints in Hugging Face's layout: one safetensors file, or shards with an index.

mod checkpoint;
mod load;
mod save;

pub(crate) use checkpoint::{Checkpoint, check};

/// The file of a checkpoint that is not split.
const SINGLE: &str = "model.safetensors";
/// Which file of a split checkpoint holds which tensor.
const INDEX: &str = "model.safetensors.index.json";
