//! (IA)³.

pub(crate) mod config;
mod layer;

pub use config::Ia3Config;
pub use layer::Ia3;
