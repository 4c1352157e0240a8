//! Grouped-query attention.

use burn::module::Module;
use burn::tensor::Tensor;
use fused_burn::{AttentionShape, BlockLayer, Scores, block_attention, causal_attention, masked_attention_with};
use peft_burn::{PeftLinear, Plan};

use super::dropped_attention::dropped_attention;
use super::norm::{RmsNorm, through};
use super::parts::{Builder, PartMut, PartRef, Parts, Source};
use super::pattern::Pattern;
use super::projection::{alone, together};
use super::rotary::Rotations;
use super::surroundings::{Memory, Surroundings};

/// Projections and sizes of one layer's attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// q, k and v (`[hidden, heads·head_dim]` and twice `[hidden, kv_heads·head_dim]`), or all three side by side in one.
    pub qkv: Vec<PeftLinear>,
    /// The norm of queries before they turn.
    pub q_norm: Option<RmsNorm>,
    /// The norm of keys before they turn.
    pub k_norm: Option<RmsNorm>,
    /// `[heads·head_dim, hidden]`.
    pub o_proj: PeftLinear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Probability with which a weight of attention is dropped in training.
    dropout: f64,
    #[module(skip)]
    sight: Sight,
}

/// How a layer's queries see keys.
#[derive(Clone, Copy, Debug)]
struct Sight {
    window: Option<usize>,
    scores: Scores,
    /// Which rotary embedding.
    rope: Option<usize>,
}

const APART: [&str; 3] = ["q_proj", "k_proj", "v_proj"];
const FUSED: [&str; 1] = ["qkv_proj"];

/// The names of the projections of q, k and v.
fn names(fused: bool) -> &'static [&'static str] {
    if fused { &FUSED } else { &APART }
}

impl Parts for Attention {
    fn parts<'a>(&'a self, path: &str, all: &mut Vec<(String, PartRef<'a>)>) {
        for (layer, name) in self.qkv.iter().zip(names(self.qkv.len() == 1)) {
            layer.parts(&format!("{path}.{name}"), all);
        }
        self.q_norm.parts(&format!("{path}.q_norm"), all);
        self.k_norm.parts(&format!("{path}.k_norm"), all);
        self.o_proj.parts(&format!("{path}.o_proj"), all);
    }

    fn parts_mut<'a>(&'a mut self, path: &str, all: &mut Vec<(String, PartMut<'a>)>) {
        let names = names(self.qkv.len() == 1);
        for (layer, name) in self.qkv.iter_mut().zip(names) {
            layer.parts_mut(&format!("{path}.{name}"), all);
        }
        self.q_norm.parts_mut(&format!("{path}.q_norm"), all);
        self.k_norm.parts_mut(&format!("{path}.k_norm"), all);
        self.o_proj.parts_mut(&format!("{path}.o_proj"), all);
    }
}

impl Attention {
    pub(crate) fn build<S: Source>(from: &mut Builder<'_, S>, path: &str, layer: usize) -> Result<Self, S::Error> {
        let config = from.config;
        let decoder = &config.decoder;
        let linear = |name: &&str| from.linear(&format!("{path}.{name}"));
        Ok(Self {
            qkv: names(decoder.fused).iter().map(linear).collect::<Result<_, _>>()?,
            q_norm: decoder.qk_norm.map(|_| from.norm(&format!("{path}.q_norm"))).transpose()?,
            k_norm: decoder.qk_norm.map(|_| from.norm(&format!("{path}.k_norm"))).transpose()?,
            o_proj: from.linear(&format!("{path}.o_proj"))?,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            dropout: config.attention_dropout,
            sight: Sight {
                window: decoder.window_of(layer),
                scores: decoder.scores(),
                rope: Rotations::index(decoder.layer(layer).rope),
            },
        })
    }

    /// Queries, keys and values: `[n, heads·head_dim]` and twice `[n, kv_heads·head_dim]`.
    fn project(&self, x: Tensor<2>, plan: Option<&Plan>) -> [Tensor<2>; 3] {
        if let [q, k, v] = self.qkv.as_slice() {
            return together([q, k, v], x, plan);
        }
        let [q, kv] = [self.heads, self.kv_heads].map(|heads| heads * self.head_dim);
        let all = alone(&self.qkv[0], x, plan);
        [(0, q), (q, kv), (q + kv, kv)].map(|(start, width)| all.clone().narrow(1, start, width))
    }

    /// `x`: `[batch·seq, hidden]`, normalised; the result has the same shape. What `memory` holds of earlier calls is seen
    /// too, and this call's keys and values are added.
    pub(crate) fn forward(&self, x: Tensor<2>, surroundings: &Surroundings, memory: Memory<'_>) -> Tensor<2> {
        let Surroundings { batch, rotations, patterns, plan } = surroundings;
        let (batch, plan) = (*batch, plan.as_deref());
        let seq = x.dims()[0] / batch;
        let Sight { window, scores, rope } = self.sight;
        let split = |y: Tensor<2>, heads: usize| y.reshape([batch, seq, heads, self.head_dim]).swap_dims(1, 2);
        let [q, k, v] = self.project(x, plan);
        let (q, k) = (through(self.q_norm.as_ref(), q), through(self.k_norm.as_ref(), k));
        let turned = |x| match rope.and_then(|rope| rotations.get(rope)) {
            Some(rotation) => rotation.apply(x),
            None => x,
        };
        let (q, k) = (turned(q), turned(k));
        let seen = match memory {
            Memory::Blocks { layer: number, shape, sequences } => {
                let layer = BlockLayer { number, window, scores };
                return alone(&self.o_proj, block_attention(q, k, v, layer, shape, sequences), plan);
            }
            Memory::Cache { layer, first } => {
                let first = if window.is_some() { first } else { 0 };
                Some(layer.append(split(k.clone(), self.kv_heads), split(v.clone(), self.kv_heads), first))
            }
            Memory::None => None,
        };
        let pattern = patterns.of(window);
        let out = match pattern {
            // A model in training mode, as Transformers' `model.train()`: its tensors are autodiff's.
            _ if self.dropout > 0.0 && q.is_autodiff() => {
                let (k, v) = seen.unwrap_or_else(|| (split(k, self.kv_heads), split(v, self.kv_heads)));
                dropped_attention(q, k, v, pattern, self.dropout, window, scores)
            }
            Pattern::Causal(starts) => {
                let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
                let starts = starts.clone();
                let shape = AttentionShape { batch, seq, heads, kv_heads, head_dim, starts, window, scores };
                causal_attention(q, k, v, shape)
            }
            Pattern::Masked(mask) => {
                let (k, v) = seen.unwrap_or_else(|| (split(k, self.kv_heads), split(v, self.kv_heads)));
                masked_attention_with(q, k, v, mask.clone(), scores)
            }
        };
        alone(&self.o_proj, out, plan)
    }
}
