//! The shapes that rows of data sets have, and how each is read.

mod calls;
mod chat;
mod ids;
mod keys;
mod options;
mod read;
mod shape;
mod template;
mod weight;

pub use self::options::RowOptions;
pub(crate) use self::read::{Parsed, RowReader};
pub use self::shape::{Row, RowShape};
pub use self::template::{RowTemplate, alpaca_prompt};
