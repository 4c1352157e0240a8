//! A linear layer that takes adapters.

mod adapter;
mod forward;
mod layer;
mod merge;
mod projection;

pub use adapter::LinearAdapter;
pub use layer::PeftLinear;
pub use projection::Projection;
