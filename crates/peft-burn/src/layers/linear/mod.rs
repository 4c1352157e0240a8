//! A linear layer that takes adapters.

mod adapter;
mod forward;
mod layer;
mod merge;
mod projection;

pub use adapter::LinearAdapter;
pub(crate) use forward::{add_bias, linear};
pub use layer::PeftLinear;
pub use projection::Projection;
