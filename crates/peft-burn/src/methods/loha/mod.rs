//! LoHa: the update is the elementwise (Hadamard) product of two updates of low rank.

mod builder;
mod config;
mod init;
mod layer;

pub use config::LoHaConfig;
pub use layer::LoHa;
