//! `config.json` of the Llama family, as transformers v4 and v5 write it.

mod read;
mod rope;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{LlamaError, Result};
pub use rope::{RopeConfig, RopeScaling};

/// The dtype that a checkpoint is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision, `float32`.
    F32,
    /// IEEE half precision, `float16`.
    F16,
    /// Brain floating point, `bfloat16`.
    Bf16,
}

impl Dtype {
    /// The name torch and transformers use, such as `"bfloat16"`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
        }
    }
}

/// The shape of a Llama model, under transformers' names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
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
    /// The dtype the file names; [`Dtype::F32`] where it names none. The stored tensors have the last word.
    pub dtype: Dtype,
}

impl LlamaConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), and [`LlamaError::Io`].
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_json(&std::fs::read_to_string(path).map_err(LlamaError::io(path))?, path)
    }

    /// Reads `config.json` of a model directory and, where there is one, `generation_config.json`: generation stops
    /// at that file's `eos_token_id` (as in transformers), which also supplies a pad token that `config.json` lacks.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file), for either file.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let mut config = Self::from_file(&dir.as_ref().join("config.json"))?;
        let path = dir.as_ref().join("generation_config.json");
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
    /// model's output but are not supported (`hidden_act` other than SiLU, other `rope_type`s, quantised weights, ...).
    pub fn from_json(text: &str, origin: &Path) -> Result<Self> {
        read::config(text, origin)
    }

    /// A `config.json` of this model, in the spelling that transformers v4 and v5 both read.
    pub fn to_hf_json(&self) -> Value {
        let rope_scaling = match &self.rope.scaling {
            RopeScaling::Default => Value::Null,
            scaling => json!(scaling),
        };
        let eos_token_id = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos_token_id,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": self.mlp_bias,
            "model_type": "llama",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "pretraining_tp": 1,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": rope_scaling,
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": self.dtype.torch_name(),
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
    }

    /// How many numbers the model's weights are; a tied head is counted once.
    pub fn num_parameters(&self) -> usize {
        let query = self.num_attention_heads * self.head_dim;
        let key_value = self.num_key_value_heads * self.head_dim;
        let attention_bias = if self.attention_bias { query + 2 * key_value + self.hidden_size } else { 0 };
        let mlp_bias = if self.mlp_bias { 2 * self.intermediate_size + self.hidden_size } else { 0 };
        let layer = 2 * self.hidden_size * (query + key_value)
            + attention_bias
            + 3 * self.hidden_size * self.intermediate_size
            + mlp_bias
            + 2 * self.hidden_size;
        let vocabularies = if self.tie_word_embeddings { 1 } else { 2 };
        vocabularies * self.vocab_size * self.hidden_size + self.num_hidden_layers * layer + self.hidden_size
    }
}
