//! The Llama model family on Burn, as Hugging Face stores it. Its projections take adapters.
//!
//! ```
//! use burn::tensor::Device;
//! use llama_burn::{Input, Llama, LlamaConfig};
//! use peft_burn::{LoraConfig, PeftConfig, PeftModel};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
//!     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
//!     "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;
//! let config = LlamaConfig::from_json(config, "config.json".as_ref())?;
//! let mut model = Llama::random(config, 1, &Device::flex());
//! model.add_adapter("default", &PeftConfig::Lora(LoraConfig { r: 4, ..LoraConfig::default() }), 42)?;
//! let logits = model.forward(&Input::from_rows(&[vec![1, 2, 3]], &model.device()));
//! assert_eq!(logits.dims(), [1, 3, 64]);
//! # Ok(())
//! # }
//! ```

mod config;
mod error;
mod generate;
pub mod hub;
mod merge;
mod model;
mod summary;
mod tensors;
mod text;
mod weights;

pub use config::{Dtype, LlamaConfig, RopeConfig, RopeScaling};
pub use error::{LlamaError, Result};
pub use generate::{Generate, GenerateOptions, Sampler, SamplingConfig, TokenLogprob};
pub use merge::{MergeReport, merge_into};
pub use model::{
    Attention, AttentionMask, CausalModel, DecoderLayer, Input, KvCache, Llama, Mlp, ModelSpec, RmsNorm, Step,
};
pub use summary::ModelSummary;
pub use text::{
    ChatTemplate, Conversation, Encoded, Message, SpecialTokens, StopScanner, StopTokens, Text, TextStream, Tokenizer,
};
