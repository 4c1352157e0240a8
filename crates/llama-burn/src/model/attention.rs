//! Grouped-query attention.

use burn::module::Module;
use burn::tensor::Tensor;
use fused_burn::{AttentionShape, block_attention, causal_attention, masked_attention};
use peft_burn::PeftLinear;

use super::dropped_attention::dropped_attention;
use super::layer::{Memory, Surroundings};
use super::parts::{Builder, Source, parts};
use super::pattern::Pattern;
use super::served::{alone, together};

/// Projections and sizes of one layer's attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden, heads·head_dim]`.
    pub q_proj: PeftLinear,
    /// `[hidden, kv_heads·head_dim]`.
    pub k_proj: PeftLinear,
    /// `[hidden, kv_heads·head_dim]`.
    pub v_proj: PeftLinear,
    /// `[heads·head_dim, hidden]`.
    pub o_proj: PeftLinear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Probability with which a weight of attention is dropped in training.
    dropout: f64,
}

parts!(Attention { q_proj, k_proj, v_proj, o_proj });

impl Attention {
    pub(crate) fn build<S: Source>(from: &mut Builder<'_, S>, path: &str) -> Result<Self, S::Error> {
        let config = from.config;
        Ok(Self {
            q_proj: from.linear(&format!("{path}.q_proj"))?,
            k_proj: from.linear(&format!("{path}.k_proj"))?,
            v_proj: from.linear(&format!("{path}.v_proj"))?,
            o_proj: from.linear(&format!("{path}.o_proj"))?,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            dropout: config.attention_dropout,
        })
    }

    /// `x`: `[batch·seq, hidden]`, normalised; the result has the same shape. What `memory` holds of earlier calls is seen
    /// too, and this call's keys and values are added.
    pub(crate) fn forward(&self, x: Tensor<2>, surroundings: &Surroundings, memory: Memory<'_>) -> Tensor<2> {
        let Surroundings { batch, rotation, pattern, plan } = surroundings;
        let (batch, plan) = (*batch, plan.as_deref());
        let seq = x.dims()[0] / batch;
        let split = |y: Tensor<2>, heads: usize| y.reshape([batch, seq, heads, self.head_dim]).swap_dims(1, 2);
        let [q, k, v] = together([&self.q_proj, &self.k_proj, &self.v_proj], x, plan);
        let (q, k) = (rotation.apply(q), rotation.apply(k));
        let seen = match memory {
            Memory::Blocks { layer, shape, sequences } => {
                return alone(&self.o_proj, block_attention(q, k, v, layer, shape, sequences), plan);
            }
            Memory::Cache(cache) => {
                Some(cache.append(split(k.clone(), self.kv_heads), split(v.clone(), self.kv_heads)))
            }
            Memory::None => None,
        };
        let out = match pattern {
            // A model in training mode, as Transformers' `model.train()`: its tensors are autodiff's.
            _ if self.dropout > 0.0 && q.is_autodiff() => {
                let (k, v) = seen.unwrap_or_else(|| (split(k, self.kv_heads), split(v, self.kv_heads)));
                dropped_attention(q, k, v, pattern, self.dropout)
            }
            Pattern::Causal(starts) => {
                let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
                let shape = AttentionShape {
                    batch,
                    seq,
                    heads,
                    kv_heads,
                    head_dim,
                    starts: starts.clone(),
                    window: None,
                    scores: Default::default(),
                };
                causal_attention(q, k, v, shape)
            }
            Pattern::Masked(mask) => {
                let (k, v) = seen.unwrap_or_else(|| (split(k, self.kv_heads), split(v, self.kv_heads)));
                masked_attention(q, k, v, mask.clone())
            }
        };
        alone(&self.o_proj, out, plan)
    }
}
