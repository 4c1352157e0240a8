//! Weights whose values are codes of a few bits: what quantised models hold.
//!
//! A [`PackedWeight`] keeps the codes as they are stored. They are decoded on the way into a product, again in backward, and
//! nothing decoded outlives the product.

mod codes;
mod composed;
mod layout;
mod nested;
mod view;
mod weight;

pub(crate) use composed::rows;
pub use layout::{Format, PackedLayout};
pub use view::PackedView;
pub use weight::{PackedWeight, Weight};
