//! Weights whose values are codes of a few bits: what quantised models hold.
//!
//! A [`PackedWeight`] keeps the codes as they are stored. They are decoded on the way into a product, again in backward, and
//! nothing decoded outlives the product.

mod codes;
mod composed;
mod error;
mod few_rows;
mod ggml;
mod layout;
mod make;
mod nested;
mod nibbles;
mod quantise;
mod rounding;
mod scales;
mod view;
mod weight;

pub(crate) use composed::rows;
pub use error::QuantizeError;
pub(crate) use few_rows::FewRows;
pub use layout::{Format, PackedLayout};
pub use make::{BitsAndBytes, Scales};
pub use quantise::Quantization;
pub use view::PackedView;
pub use weight::{PackedWeight, Weight};
