//! Checkpoints in Hugging Face's layout: one file of weights, or shards with an index, in safetensors or as `torch.save`
//! writes them.

mod checkpoint;
mod fit;
mod load;
mod save;

pub(crate) use checkpoint::Checkpoint;
#[cfg(feature = "hub")]
pub(crate) use checkpoint::{BIN, BIN_INDEX, INDEX, SINGLE, shards};
pub(crate) use fit::fit;
pub(crate) use save::{NamedWeight, save_tensors};
