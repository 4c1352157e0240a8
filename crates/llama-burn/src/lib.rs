//! The Llama model family on Burn, as Hugging Face stores it.

mod adapters;
mod attention;
mod cache;
mod chat;
mod config;
mod error;
mod generate;
pub mod hub;
mod mask;
mod merge;
mod model;
mod norm;
pub mod ops;
mod rotary;
mod sampling;
mod summary;
mod tokenizer;
mod weights;

pub use attention::Attention;
pub use cache::KvCache;
pub use chat::{ChatTemplate, Message};
pub use config::{Dtype, LlamaConfig, RopeConfig, RopeScaling};
pub use error::{LlamaError, Result};
pub use generate::GenerateOptions;
pub use mask::AttentionMask;
pub use merge::{MergeReport, merge_into};
pub use model::{DecoderLayer, Input, Llama, Mlp};
pub use norm::RmsNorm;
pub use sampling::{Sampler, SamplingConfig};
pub use summary::ModelSummary;
pub use tokenizer::{SpecialTokens, TextStream, Tokenizer};
