//! The Llama model family on Burn, as Hugging Face stores it.

mod adapters;
mod attention;
mod cache;
mod config;
mod error;
mod mask;
mod model;
mod norm;
mod rotary;
mod weights;

pub use attention::Attention;
pub use cache::KvCache;
pub use config::{Dtype, LlamaConfig, RopeConfig, RopeScaling};
pub use error::{LlamaError, Result};
pub use mask::AttentionMask;
pub use model::{DecoderLayer, Input, Llama, Mlp};
pub use norm::RmsNorm;
