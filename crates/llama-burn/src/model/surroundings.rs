//! The inputs of a layer beside the residual stream: positions, masks, adapters, and the memory of earlier calls.

use std::sync::Arc;

use fused_burn::{BlockRows, BlockShape};
use peft_burn::Plan;

use super::cache::LayerCache;
use super::pattern::Patterns;
use super::rotary::Rotation;

/// The inputs of a pass over the layers beside the residual stream, on one device.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub batch: usize,
    /// A model's rotary embeddings.
    pub rotations: Vec<Rotation>,
    pub patterns: Patterns,
    /// Whose adapter each row has; `None` where those that are attached to the model are active.
    pub plan: Option<Arc<Plan>>,
}

/// The memory of a layer of earlier calls.
#[derive(Debug)]
pub(crate) enum Memory<'a> {
    /// Nothing: all tokens are in this call.
    None,
    /// Rows of one length. A windowed layer sees columns from `first` on.
    Cache { layer: &'a mut LayerCache, first: usize },
    /// Sequences of different lengths, in blocks.
    Blocks { layer: usize, shape: &'a BlockShape, sequences: &'a mut [BlockRows] },
}

/// As [`Memory`], of all layers.
#[derive(Debug)]
pub(crate) enum Memories<'a> {
    None,
    Cache { layers: &'a mut [LayerCache], first: usize },
    Blocks { shape: &'a BlockShape, sequences: &'a mut [BlockRows] },
}

impl Memories<'_> {
    /// The memory of layer number `layer`.
    pub fn of(&mut self, layer: usize) -> Memory<'_> {
        match self {
            Self::None => Memory::None,
            Self::Cache { layers, first } => {
                let first = *first;
                layers.get_mut(layer).map_or(Memory::None, |layer| Memory::Cache { layer, first })
            }
            Self::Blocks { shape, sequences } => Memory::Blocks { layer, shape, sequences },
        }
    }
}
