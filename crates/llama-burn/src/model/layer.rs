//! One decoder layer.

use burn::module::Module;
use burn::tensor::Tensor;

use super::attention::Attention;
use super::mlp::Mlp;
use super::norm::{RmsNorm, through};
use super::parts::{Builder, Source, parts};
use super::surroundings::{Memory, Surroundings};
use crate::config::Norms;

/// One decoder layer: attention and a feedforward block, each with a norm before it, after it or both, and added to the
/// residual stream.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Before attention.
    pub input_layernorm: Option<RmsNorm>,
    /// Attention.
    pub self_attn: Attention,
    /// After attention, if there is a `post_feedforward_layernorm`; else before the feedforward block.
    pub post_attention_layernorm: RmsNorm,
    /// Before the feedforward block.
    pub pre_feedforward_layernorm: Option<RmsNorm>,
    /// Feedforward block.
    pub mlp: Mlp,
    /// After the feedforward block.
    pub post_feedforward_layernorm: Option<RmsNorm>,
    /// The factor of the outputs that are added to the residual stream.
    residual_scale: Option<f64>,
}

parts!(DecoderLayer {
    input_layernorm,
    self_attn,
    post_attention_layernorm,
    pre_feedforward_layernorm,
    mlp,
    post_feedforward_layernorm,
});

impl DecoderLayer {
    pub(crate) fn build<S: Source>(from: &mut Builder<'_, S>, path: &str, layer: usize) -> Result<Self, S::Error> {
        let norms = from.config.decoder.norms;
        let mut norm = |name: &str, is_there: bool| is_there.then(|| from.norm(&format!("{path}.{name}"))).transpose();
        let input_layernorm = norm("input_layernorm", norms != Norms::Post)?;
        let pre_feedforward_layernorm = norm("pre_feedforward_layernorm", norms == Norms::Both)?;
        let post_feedforward_layernorm = norm("post_feedforward_layernorm", norms != Norms::Pre)?;
        Ok(Self {
            input_layernorm,
            self_attn: Attention::build(from, &format!("{path}.self_attn"), layer)?,
            post_attention_layernorm: from.norm(&format!("{path}.post_attention_layernorm"))?,
            pre_feedforward_layernorm,
            mlp: Mlp::build(from, &format!("{path}.mlp"))?,
            post_feedforward_layernorm,
            residual_scale: from.config.decoder.residual_scale,
        })
    }

    /// `x`: the residual stream, `[batch·seq, hidden]`; the result has the same shape.
    pub(crate) fn forward(&self, x: Tensor<2>, surroundings: &Surroundings, memory: Memory<'_>) -> Tensor<2> {
        let scaled = |y: Tensor<2>| match self.residual_scale {
            Some(scale) => y.mul_scalar(scale),
            None => y,
        };
        let y = self.self_attn.forward(through(self.input_layernorm.as_ref(), x.clone()), surroundings, memory);
        let norms_after = self.post_feedforward_layernorm.is_some();
        let y = if norms_after { self.post_attention_layernorm.forward(y) } else { y };
        let x = x + scaled(y);
        let y = if norms_after {
            through(self.pre_feedforward_layernorm.as_ref(), x.clone())
        } else {
            self.post_attention_layernorm.forward(x.clone())
        };
        let y = through(self.post_feedforward_layernorm.as_ref(), self.mlp.forward(y, surroundings.plan.as_deref()));
        x + scaled(y)
    }
}
