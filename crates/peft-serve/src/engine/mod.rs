//! The engine: one model, one thread, one batch.

mod core;
mod handle;
mod lease;
mod limits;
mod pass;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use burn::module::Module;
use llama_burn::{Llama, Text};

use crate::metrics::Metrics;

pub use self::core::Core;
pub use handle::{Engine, Handle};

/// A base model that is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// The name that requests use for it.
    pub name: String,
    /// The weights. Adapters that are attached to it do not count.
    pub model: Llama,
    /// Tokenizer, chat template, and what ends a text.
    pub text: Option<Arc<Text>>,
    /// The folder of the files.
    pub dir: Option<PathBuf>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Served {
    /// The model `name`.
    pub fn new(name: impl Into<String>, model: Llama, text: Option<Text>) -> Self {
        let (model, text) = (model.valid(), text.map(Arc::new));
        Self { name: name.into(), model, text, dir: None, metrics: Arc::default() }
    }

    /// With the folder of its files: an adapter's tokenizer and template are compared with those there.
    #[must_use]
    pub fn with_dir(self, dir: impl Into<PathBuf>) -> Self {
        Self { dir: Some(dir.into()), ..self }
    }

    /// The engine's counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

/// The engine's limits.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Requests that run together.
    pub max_batch: usize,
    /// Tokens of prompts that one step takes in.
    pub max_prefill: usize,
    /// Requests that wait.
    pub max_queue: usize,
    /// Bytes for keys and values.
    pub cache_memory: usize,
    /// How long a request waits for memory for its adapter.
    pub adapter_wait: Duration,
    /// Tokens of a prompt and its answer together; without it, the model's context.
    pub max_model_len: Option<usize>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch: 64,
            max_prefill: 256,
            max_queue: 256,
            cache_memory: 2 << 30,
            adapter_wait: Duration::from_secs(5),
            max_model_len: None,
        }
    }
}
