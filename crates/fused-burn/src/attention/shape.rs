//! The sizes of a causal attention.

use std::ops::Range;
use std::sync::Arc;

/// Sizes of an attention, and where its texts begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Rows of tokens.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// For packed rows: the first column of the text that each column belongs to, `[batch·seq]`. `None`: 0 everywhere.
    pub starts: Option<Arc<Vec<usize>>>,
}

impl AttentionShape {
    /// The columns that the query at `column` of row `row` sees.
    pub(super) fn sees(&self, row: usize, column: usize) -> Range<usize> {
        self.starts.as_ref().map_or(0, |s| s[row * self.seq + column])..column + 1
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}
