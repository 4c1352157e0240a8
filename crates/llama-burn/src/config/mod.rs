//! `config.json` of the supported families, as transformers v4 and v5 write it.

mod decoder;
mod family;
mod keys;
mod read;
mod rope;
mod rope_keys;
mod switches;
mod write;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use crate::dtype::{Dtype, LoadDtype};
use crate::error::{LlamaError, Result};
use crate::gguf;
pub use decoder::{Decoder, EmbeddingScale, Gate, LayerKind, LayerRope, Norms, QkNorm};
pub(crate) use rope::Stretch;
pub use rope::{RopeConfig, RopeScaling};

/// The shape of a model, under transformers' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// The family, as transformers calls it: `llama`, `qwen2`, `gemma3_text`, …
    pub model_type: String,
    /// Rows of the embedding, and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feedforward block.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even. `num_attention_heads * head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// The context length the model is made for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square under the root of RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Whether `q_proj`, `k_proj`, `v_proj` and `o_proj` have a bias.
    pub attention_bias: bool,
    /// Whether `gate_proj`, `up_proj` and `down_proj` have a bias.
    pub mlp_bias: bool,
    /// Probability with which a weight of attention is dropped in training.
    pub attention_dropout: f64,
    /// Whether `lm_head` is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of randomly initialised weights.
    pub initializer_range: f64,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a generation; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// The token that fills up a batch.
    pub pad_token_id: Option<u32>,
    /// The dtype the file names; [`Dtype::F32`] where it names none, or `auto`. The stored tensors have the last word.
    pub dtype: Dtype,
    /// How the family's decoder differs from Llama's.
    pub decoder: Decoder,
}

impl LlamaConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), and [`LlamaError::Io`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_json(&std::fs::read_to_string(path).map_err(LlamaError::io(path))?, path)
    }

    /// Reads `config.json` of a model directory (or a GGUF file's metadata) and, where there is one, `generation_config.json`: generation stops
    /// at that file's `eos_token_id` (as in transformers), which also supplies a pad token that `config.json` lacks.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file), for either file; a folder that holds an adapter instead.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = gguf::directory(dir.as_ref())?;
        let path = dir.join("config.json");
        if !path.exists() && dir.join("adapter_config.json").exists() {
            let message =
                "it holds an adapter and no model: give the model it was trained on as the model, and this folder as \
                           the adapter"
                    .to_owned();
            return Err(LlamaError::Weights { path: dir, message });
        }
        let mut config = Self::from_file(&path)?;
        let path = dir.join("generation_config.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => read::generation_config(&mut config, &text, &path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(LlamaError::io(path)(error)),
        }
        Ok(config)
    }

    /// Reads the text of a `config.json`; `origin` stands for the file in errors. Both spellings are understood:
    /// `rope_theta` and `rope_scaling` or `rope_parameters`, `torch_dtype` or `dtype`. What transformers has a
    /// default for may be absent, sizes of weights may not.
    ///
    /// # Errors
    /// [`LlamaError::Json`], [`LlamaError::UnsupportedArchitecture`], or [`LlamaError::Config`] with every problem
    /// of the file: missing or mistyped keys, sizes that contradict each other, and settings that would change the
    /// model's output but are not supported (another activation, other `rope_type`s, quantised weights, ...).
    pub fn from_json(text: &str, origin: impl AsRef<Path>) -> Result<Self> {
        let origin = origin.as_ref();
        read::config(text, origin)
    }

    /// The differences by which a model of this shape computes something else than one of the shape `other` with the same weights,
    /// a line each.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let mut compare = |key: &str, ours: Value, theirs: Value| {
            if ours != theirs {
                all.push(format!("{key} is {theirs} in the one and {ours} in the other"));
            }
        };
        compare("model_type", json!(self.model_type), json!(other.model_type));
        compare("num_attention_heads", json!(self.num_attention_heads), json!(other.num_attention_heads));
        compare("num_key_value_heads", json!(self.num_key_value_heads), json!(other.num_key_value_heads));
        compare("head_dim", json!(self.head_dim), json!(other.head_dim));
        compare("rms_norm_eps", json!(self.rms_norm_eps), json!(other.rms_norm_eps));
        compare("rope_theta", json!(self.rope.theta), json!(other.rope.theta));
        compare("rope_scaling", json!(self.rope.scaling), json!(other.rope.scaling));
        for (key, value) in &self.decoder.own_keys {
            compare(key, value.clone(), other.decoder.own_keys.get(key).cloned().unwrap_or_default());
        }
        all
    }

    /// Transformers' name of the model's class, such as `LlamaForCausalLM`.
    pub fn architecture(&self) -> &'static str {
        family::family(&self.model_type).map_or("LlamaForCausalLM", |family| family.class)
    }

    /// The longest text whose tokens can be run in any order of calls: one for which frequencies of the rotary embedding
    /// do not depend on its length.
    pub fn fixed_context(&self) -> usize {
        match self.rope.scaling {
            RopeScaling::LongRope { original_max_position_embeddings: original, .. } => {
                original.min(self.max_position_embeddings)
            }
            _ => self.max_position_embeddings,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
