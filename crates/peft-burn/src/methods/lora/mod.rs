//! LoRA.

mod builder;
mod config;
mod init;
mod layer;
pub(crate) mod op;

pub use config::LoraConfig;
pub(crate) use config::features;
pub use init::LoraSpec;
pub use layer::Lora;
