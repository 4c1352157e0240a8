//! Grouped-query attention.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Tensor};
use peft_burn::PeftLinear;

use crate::cache::LayerCache;
use crate::ops::{AttentionShape, causal_attention};
use crate::rotary::Rotation;

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
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Who sees whom in a forward pass.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one exists for each forward pass
pub(crate) enum Pattern {
    /// Causal within a text, from column 0: the fused operation. For packed rows, where each column's text starts.
    Causal(Option<Arc<Vec<usize>>>),
    /// Any other; `true` hides, `[1 or batch, 1, queries, keys]`. `None` hides nothing.
    Masked(Option<Tensor<4, Bool>>),
}

impl Attention {
    /// `x`: `[batch·seq, hidden]`, normalised; the result has the same shape. With `cache`, keys and values of earlier
    /// calls are seen too, and this call's are added.
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        batch: usize,
        rotation: &Rotation,
        pattern: &Pattern,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let seq = x.dims()[0] / batch;
        let split = |y: Tensor<2>, heads: usize| y.reshape([batch, seq, heads, self.head_dim]).swap_dims(1, 2);
        let [q, k, v] = PeftLinear::forward_together([&self.q_proj, &self.k_proj, &self.v_proj], x);
        let (q, k) = (rotation.apply(q), rotation.apply(k));
        let seen = cache.map(|c| c.append(split(k.clone(), self.kv_heads), split(v.clone(), self.kv_heads)));
        let out = match pattern {
            Pattern::Causal(starts) => {
                let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
                let shape = AttentionShape { batch, seq, heads, kv_heads, head_dim, starts: starts.clone() };
                causal_attention(q, k, v, shape)
            }
            Pattern::Masked(mask) => {
                let (k, v) = seen.unwrap_or_else(|| (split(k, self.kv_heads), split(v, self.kv_heads)));
                let out = attend(split(q, self.heads), k, v, mask.as_ref());
                out.swap_dims(1, 2).reshape([batch * seq, self.heads * self.head_dim])
            }
        };
        self.o_proj.forward(out)
    }
}

/// `softmax(q·kᵀ/√d)·v` for q `[batch, heads, queries, d]` and k, v `[batch, kv_heads, keys, d]`. The heads of a group
/// read their key and value head where it lies: they are folded into the query dimension, so nothing is repeated.
fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<&Tensor<4, Bool>>) -> Tensor<4> {
    let ([b, heads, queries, d], [_, kv_heads, keys, _]) = (q.dims(), k.dims());
    let group = heads / kv_heads;
    let dtype = q.dtype();
    let scores =
        q.reshape([b, kv_heads, group * queries, d]).matmul(k.swap_dims(2, 3)).mul_scalar(1.0 / (d as f64).sqrt());
    let scores = scores.reshape([b, heads, queries, keys]);
    let scores = match mask {
        Some(mask) => scores.mask_fill(mask.clone().expand([b, heads, queries, keys]), f32::NEG_INFINITY),
        None => scores,
    };
    let weights = softmax(scores.cast(DType::F32), 3).cast(dtype);
    weights.reshape([b, kv_heads, group * queries, keys]).matmul(v).reshape([b, heads, queries, d])
}
