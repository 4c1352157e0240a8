//! AdaLoRA on one layer. What it does to a whole model is in [`crate::adalora`].

mod builder;
mod config;
mod importance;
mod init;
mod layer;
pub(crate) mod triplets;

pub use config::AdaLoraConfig;
pub use importance::Importance;
pub use layer::AdaLora;
