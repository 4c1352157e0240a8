//! (IA)³.

mod builder;
mod config;
mod init;
mod layer;

pub use config::Ia3Config;
pub use layer::Ia3;
