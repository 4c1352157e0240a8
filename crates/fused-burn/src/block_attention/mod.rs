//! Attention of many sequences of different lengths, each to its own keys and values, which lie in blocks.
//!
//! A sequence's cache grows by a block at a time and is never copied. It is for inference: nothing in it has a gradient.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::host::{back, on_host};
use crate::scores::Scores;

mod cpu;

#[cfg(test)]
mod tests;

/// The sizes of attention, and of the blocks that hold keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    /// Layers that have their keys and values in a block.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens of a block.
    pub tokens: usize,
}

/// Keys and values of [`BlockShape::tokens`] tokens, of every layer: `[layers, 2, kv_heads, tokens, head_dim]`.
pub type Block = Box<[f32]>;

impl BlockShape {
    /// How many numbers a block holds.
    pub fn block_len(&self) -> usize {
        self.layers * 2 * self.kv_heads * self.tokens * self.head_dim
    }

    /// A new block.
    pub fn new_block(&self) -> Block {
        vec![0.0; self.block_len()].into_boxed_slice()
    }

    /// How many blocks hold `tokens` tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.tokens.max(1))
    }

    /// Where the keys (`0`) or values (`1`) of a head in a layer begin in a block.
    fn place(&self, layer: usize, which: usize, kv_head: usize) -> usize {
        ((layer * 2 + which) * self.kv_heads + kv_head) * self.tokens * self.head_dim
    }
}

/// Rows of a batch that are the next tokens of one sequence.
#[derive(Debug)]
pub struct BlockRows {
    /// Which rows of the batch.
    pub rows: Range<usize>,
    /// Tokens that the cache holds already.
    pub past: usize,
    /// The sequence's blocks, with room for the rows.
    pub blocks: Vec<Block>,
}

/// Which layer's keys and values are meant, and how its queries see them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockLayer {
    /// The layer's number.
    pub number: usize,
    /// How many tokens a query sees at most, itself among them. `None`: all of its sequence so far.
    pub window: Option<usize>,
    /// How scores are made.
    pub scores: Scores,
}

impl From<usize> for BlockLayer {
    /// A layer that sees everything.
    fn from(number: usize) -> Self {
        Self { number, ..Self::default() }
    }
}

impl BlockLayer {
    /// The first of `keys` tokens that the last of them sees.
    fn first(&self, keys: usize) -> usize {
        self.window.map_or(0, |window| keys.saturating_sub(window))
    }
}

/// Puts the rows' k and v into the blocks of their sequences, for `layer`, and returns each row's attention to its sequence
/// up to itself. `sequences` are in the order of their rows and cover all of them.
///
/// # Shapes
/// `q`: `[n, heads·head_dim]`, as the result; `k` and `v`: `[n, kv_heads·head_dim]`.
///
/// # Panics
/// Sizes that contradict each other, and sequences without room for their rows.
pub fn block_attention(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    layer: impl Into<BlockLayer>,
    shape: &BlockShape,
    sequences: &mut [BlockRows],
) -> Tensor<2> {
    let (device, dtype) = (q.device(), q.dtype());
    back(cpu::block_attention(on_host(q), on_host(k), on_host(v), layer.into(), shape, sequences), dtype, &device)
}
