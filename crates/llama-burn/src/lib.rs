//! The Llama model family on Burn, as Hugging Face stores it.

mod config;
mod error;

pub use config::{Dtype, LlamaConfig, RopeConfig, RopeScaling};
pub use error::{LlamaError, Result};
