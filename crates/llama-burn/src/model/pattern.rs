//! Who sees whom in attention.

use std::sync::Arc;

use burn::tensor::{Bool, Tensor};

/// Who sees whom in a forward pass.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one exists for each forward pass
pub(crate) enum Pattern {
    /// Causal within a text, from column 0: the fused operation. For packed rows, where each column's text starts.
    Causal(Option<Arc<Vec<usize>>>),
    /// Any other; `true` hides, `[1 or batch, 1, 1 or queries, 1 or keys]`.
    Masked(Tensor<4, Bool>),
}
