//! Serves many adapters from one base model.
//!
//! An [`Engine`] runs one model on a thread of its own. Requests come from any thread and each names its adapter; all that run
//! are one batch, from which rows come and go at every step. A [`Store`] knows the adapters: it loads them when they are asked
//! for, within a budget of memory, and replaces them while they are in use. [`http`] puts an OpenAI-compatible server before
//! both.
//!
//! ```
//! use burn::tensor::Device;
//! use llama_burn::{Llama, LlamaConfig};
//! use peft_serve::{Engine, EngineConfig, Event, Request, Served, Store, StoreConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
//!     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;
//! let config = LlamaConfig::from_json(config, "config.json".as_ref())?;
//! let base = Served::new("base", Llama::random(config, 1, &Device::flex()), None);
//! let store = Store::new(&base, StoreConfig::default())?;
//! let engine = Engine::start(base, store, EngineConfig::default())?;
//! let mut answer = engine.handle().submit(Request { max_tokens: 3, ..Request::new(vec![1, 2]) })?;
//! let mut tokens = Vec::new();
//! while let Some(event) = answer.next_blocking() {
//!     match event {
//!         Event::Tokens { ids, .. } => tokens.extend(ids),
//!         Event::Finished { .. } => break,
//!         Event::Failed(error) => return Err(error.into()),
//!         _ => {}
//!     }
//! }
//! assert_eq!(tokens.len(), 3);
//! # Ok(())
//! # }
//! ```

pub mod bench;
mod blocks;
mod engine;
mod error;
pub mod http;
mod metrics;
mod queue;
mod request;
mod sequence;
mod store;

pub use engine::{Core, Engine, EngineConfig, Handle, Served};
pub use error::{Result, ServeError};
pub use metrics::Metrics;
pub use request::{Answer, Event, Finish, Request, Usage};
pub use store::{AdapterInfo, LoadOptions, Resident, State, Store, StoreConfig, StoreUse};
