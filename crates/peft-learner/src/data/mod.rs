//! From data files to micro-batches on the host: rows, tokens, packing, and the stream a run draws from.
//!
//! * [`DataFile`] finds the rows of a file of any format; it is a `Dataset` of [`RawRow`]s.
//! * [`RowShape`] tells what a row means, and [`RowOptions`] how it is read.
//! * [`Preparation`] encodes the rows of files, on all threads, into a memory-mapped file of tokens.
//! * [`Examples`] is any `Dataset` of [`Example`]s, and [`Stream`] makes micro-batches of them.

mod batch;
mod encode;
mod encode_file;
mod encode_report;
mod eval_batches;
mod examples;
mod files;
mod order;
mod packing;
mod prepare;
mod reader_of;
mod rows;
mod seen;
mod source;
mod stream;
mod tokens;

pub use batch::{Batch, Example, IGNORE_INDEX, UNSEEN_INDEX};
pub use encode::{EncodeError, EncodeOptions, TextEncoder};
pub use encode_report::EncodeReport;
pub use eval_batches::EvalBatches;
pub use examples::Examples;
pub use files::{DataFile, Part, RawRow, locate};
pub use llama_burn::{Conversation, Message};
pub use prepare::{Preparation, Prepared};
pub use rows::{Row, RowOptions, RowShape, RowTemplate, alpaca_prompt};
pub use source::{DataCache, Source, Valid};
pub use stream::{MOST_ROWS_A_STEP, Stream, StreamConfig};
