//! One decoder layer.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use fused_burn::{BlockRows, BlockShape};
use peft_burn::Plan;

use super::attention::Attention;
use super::cache::LayerCache;
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::parts::{Builder, Source, parts};
use super::pattern::Pattern;
use super::rotary::Rotation;

/// One decoder layer: attention and a feedforward block, each after a norm and added to the residual stream.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: Attention,
    /// Before the feedforward block.
    pub post_attention_layernorm: RmsNorm,
    /// Feedforward block.
    pub mlp: Mlp,
}

parts!(DecoderLayer { input_layernorm, self_attn, post_attention_layernorm, mlp });

/// What a pass over the layers needs beside the residual stream, on one device.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub batch: usize,
    pub rotation: Rotation,
    pub pattern: Pattern,
    /// Whose adapter each row has; `None` where those that are attached to the model are active.
    pub plan: Option<Arc<Plan>>,
}

/// What a layer knows of earlier calls.
#[derive(Debug)]
pub(crate) enum Memory<'a> {
    /// Nothing: all tokens are in this call.
    None,
    /// Rows of one length.
    Cache(&'a mut LayerCache),
    /// Sequences of different lengths, in blocks.
    Blocks { layer: usize, shape: &'a BlockShape, sequences: &'a mut [BlockRows] },
}

/// As [`Memory`], of all layers.
#[derive(Debug)]
pub(crate) enum Memories<'a> {
    None,
    Cache(&'a mut [LayerCache]),
    Blocks { shape: &'a BlockShape, sequences: &'a mut [BlockRows] },
}

impl Memories<'_> {
    /// What layer number `layer` knows.
    pub fn of(&mut self, layer: usize) -> Memory<'_> {
        match self {
            Self::None => Memory::None,
            Self::Cache(caches) => caches.get_mut(layer).map_or(Memory::None, Memory::Cache),
            Self::Blocks { shape, sequences } => Memory::Blocks { layer, shape, sequences },
        }
    }
}

impl DecoderLayer {
    pub(crate) fn build<S: Source>(from: &mut Builder<'_, S>, path: &str) -> Result<Self, S::Error> {
        Ok(Self {
            input_layernorm: from.norm(&format!("{path}.input_layernorm"))?,
            self_attn: Attention::build(from, &format!("{path}.self_attn"))?,
            post_attention_layernorm: from.norm(&format!("{path}.post_attention_layernorm"))?,
            mlp: Mlp::build(from, &format!("{path}.mlp"))?,
        })
    }

    /// `x`: the residual stream, `[batch·seq, hidden]`; the result has the same shape.
    pub(crate) fn forward(&self, x: Tensor<2>, surroundings: &Surroundings, memory: Memory<'_>) -> Tensor<2> {
        let x = x.clone() + self.self_attn.forward(self.input_layernorm.forward(x), surroundings, memory);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x), surroundings.plan.as_deref())
    }
}
