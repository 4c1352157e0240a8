//! From JSON Lines to micro-batches on the host: rows, tokens, packing, and the stream a run draws from.

mod batch;
mod encode;
mod packing;
mod rows;
mod stream;

pub use batch::{Batch, Example, IGNORE_INDEX};
pub use encode::{EncodeError, EncodeOptions, EncodeReport, TextEncoder, alpaca_prompt, encode_rows};
pub use rows::{ChatMessage, Row, RowShape, Rows};
pub use stream::{Stream, StreamConfig, eval_batches};
