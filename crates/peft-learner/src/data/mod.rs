//! From JSON Lines to micro-batches on the host: rows, tokens, packing, and the stream a run draws from.

mod batch;

pub use batch::{Batch, Example, IGNORE_INDEX};
