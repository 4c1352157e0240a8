//! (IA)³.

mod config;
mod init;
mod layer;

pub use config::Ia3Config;
pub use layer::Ia3;
