//! LoRA.

pub(crate) mod config;
mod init;
mod layer;
pub(crate) mod op;

pub use config::{LoraConfig, TokenIndices};
pub use init::LoraSpec;
pub use layer::Lora;
