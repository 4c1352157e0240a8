//! The sizes of a causal attention.

use std::ops::Range;
use std::sync::Arc;

use super::starts::Starts;
use crate::scores::Scores;

/// Sizes of an attention, and where its texts begin.
#[derive(Clone, Debug, PartialEq)]
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
    pub starts: Option<Arc<Starts>>,
    /// How many columns a query sees at most, its own among them. `None`: all that come before.
    pub window: Option<usize>,
    /// How scores are made.
    pub scores: Scores,
}

impl AttentionShape {
    /// The columns that the query at `column` of row `row` sees.
    pub(super) fn sees(&self, row: usize, column: usize) -> Range<usize> {
        let start = self.starts.as_ref().map_or(0, |s| s[row * self.seq + column]);
        start.max(self.first_in_window(column))..column + 1
    }

    /// The first column that the window of the query at `column` reaches.
    pub(super) fn first_in_window(&self, column: usize) -> usize {
        self.window.map_or(0, |window| (column + 1).saturating_sub(window))
    }

    pub(super) fn scale(&self) -> f32 {
        self.scores.scale_of(self.head_dim)
    }

    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}
