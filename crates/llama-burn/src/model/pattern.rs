//! Who sees whom in attention.

use std::sync::Arc;

use burn::tensor::{Bool, Tensor};
use fused_burn::Starts;

/// Who sees whom in a forward pass.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one exists for each forward pass
pub(crate) enum Pattern {
    /// Causal within a text, from column 0: the fused operation, which knows a layer's window. For packed rows, where each
    /// column's text starts.
    Causal(Option<Arc<Starts>>),
    /// Any other; `true` hides, `[1 or batch, 1, 1 or queries, 1 or keys]`. What lies outside of a window is hidden too.
    Masked(Tensor<4, Bool>),
}

/// The patterns of a forward pass: of layers that see everything, and of windowed ones where they differ.
#[derive(Clone, Debug)]
pub(crate) struct Patterns {
    pub whole: Pattern,
    pub windowed: Option<Pattern>,
}

impl Patterns {
    /// One for all layers.
    pub fn same(whole: Pattern) -> Self {
        Self { whole, windowed: None }
    }

    /// That of a layer with such a window.
    pub fn of(&self, window: Option<usize>) -> &Pattern {
        self.windowed.as_ref().filter(|_| window.is_some()).unwrap_or(&self.whole)
    }
}
