//! One decoder layer.

use burn::module::Module;
use burn::tensor::Tensor;

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
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        surroundings: &Surroundings,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let Surroundings { batch, rotation, pattern } = surroundings;
        let x = x.clone() + self.self_attn.forward(self.input_layernorm.forward(x), *batch, rotation, pattern, cache);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }
}
