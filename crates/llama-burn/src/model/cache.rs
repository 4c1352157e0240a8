//! Keys and values of tokens that were seen before.

use burn::tensor::Tensor;

/// Keys and values of one layer, `[batch, kv_heads, columns, head_dim]` each.
#[derive(Clone, Debug, Default)]
pub struct LayerCache(Option<(Tensor<4>, Tensor<4>)>);

impl LayerCache {
    /// Adds columns and returns all that there are now.
    pub(crate) fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let (k, v) = match self.0.take() {
            Some((old_k, old_v)) => (Tensor::cat(vec![old_k, k], 2), Tensor::cat(vec![old_v, v], 2)),
            None => (k, v),
        };
        self.0 = Some((k.clone(), v.clone()));
        (k, v)
    }

    fn columns(&self) -> usize {
        self.0.as_ref().map_or(0, |(k, _)| k.dims()[2])
    }
}

/// The key-value cache of a model: a forward pass computes its own tokens only and sees the earlier ones here.
#[derive(Clone, Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
}

impl KvCache {
    /// An empty cache for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers] }
    }

    /// Tokens held for each row.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, LayerCache::columns)
    }

    /// Whether nothing was cached yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
