//! Parameter-efficient fine-tuning methods for Burn, with Hugging Face PEFT's configurations and files.

mod atomic;
mod config;
mod error;

pub use config::*;
pub use error::{PeftError, Result};
