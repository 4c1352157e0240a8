//! VeRA.

mod builder;
mod config;
mod init;
mod layer;
mod mt19937;
mod op;
mod projection;

pub use config::VeraConfig;
pub use layer::Vera;
pub use mt19937::vera_projection;
pub use projection::{PairKey, VeraProjection};
