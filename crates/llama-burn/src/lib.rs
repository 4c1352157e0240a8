//! The Llama model family on Burn, as Hugging Face stores it.

mod chat;
mod config;
mod error;
pub mod hub;
mod sampling;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use config::{Dtype, LlamaConfig, RopeConfig, RopeScaling};
pub use error::{LlamaError, Result};
pub use sampling::{Sampler, SamplingConfig};
pub use tokenizer::{SpecialTokens, TextStream, Tokenizer};
