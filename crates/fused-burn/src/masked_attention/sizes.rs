//! The sizes of an attention with any mask.

use burn::tensor::Shape;

/// Sizes that follow from q's and k's.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) queries: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) keys: usize,
    pub(super) d: usize,
}

impl Sizes {
    pub(super) fn new(q: &Shape, k: &Shape) -> Self {
        let [batch, kv_heads, keys, d] = [k[0], k[1], k[2], k[3]];
        Self { batch, queries: q[0] / batch.max(1), heads: q[1] / d.max(1), kv_heads, keys, d }
    }

    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }
}
