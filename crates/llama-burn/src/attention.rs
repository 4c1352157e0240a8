//! Grouped-query attention.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Tensor};
use peft_burn::PeftLinear;

use crate::cache::LayerCache;
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

impl Attention {
    /// `x`: `[batch·seq, hidden]`, normalised; the result has the same shape. With `cache`, keys and values of earlier
    /// calls are seen too, and this call's are added.
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        batch: usize,
        rotation: &Rotation,
        mask: Option<&Tensor<4, Bool>>,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let seq = x.dims()[0] / batch;
        let split = |y: Tensor<2>, heads: usize| y.reshape([batch, seq, heads, self.head_dim]).swap_dims(1, 2);
        let q = rotation.apply(split(self.q_proj.forward(x.clone()), self.heads));
        let k = rotation.apply(split(self.k_proj.forward(x.clone()), self.kv_heads));
        let v = split(self.v_proj.forward(x), self.kv_heads);
        let (k, v) = match cache {
            Some(cache) => cache.append(k, v),
            None => (k, v),
        };
        let out = attend(q, k, v, mask);
        self.o_proj.forward(out.swap_dims(1, 2).reshape([batch * seq, self.heads * self.head_dim]))
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
