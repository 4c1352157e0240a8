//! `config.json` of the supported families, as transformers v4 and v5 write it.

mod decoder;
mod family;
mod keys;
mod read;
mod rope;
mod rope_keys;

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

    /// What Transformers calls the model's class, such as `LlamaForCausalLM`.
    pub fn architecture(&self) -> &'static str {
        family::family(&self.model_type).map_or("LlamaForCausalLM", |family| family.class)
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
        let family = family::family(&self.model_type);
        let (activation, values, _) =
            family.map_or(("hidden_act", &["silu"][..], Gate::Silu), |family| family.activation);
        let mut json = json!({
            "architectures": [self.architecture()],
            "attention_bias": self.attention_bias,
            "attention_dropout": self.attention_dropout,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos_token_id,
            "head_dim": self.head_dim,
            activation: values[0],
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": self.mlp_bias,
            "model_type": self.model_type,
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
        });
        if let Value::Object(object) = &mut json {
            object.extend(self.decoder.own_keys.clone());
            if self.decoder.rotary_dim != self.head_dim {
                let (turn, all) = (self.decoder.rotary_dim, self.head_dim as f64);
                let share = turn as f64 / all;
                // Readers round down.
                let share = if ((share * all) as usize) < turn { share.next_up() } else { share };
                object.insert("partial_rotary_factor".into(), share.into());
            }
            if let Some(local) = &self.decoder.local_rope {
                // Both spellings: Transformers 4 reads the one, 5 the other.
                let parameters = |rope: &RopeConfig| {
                    let mut all = json!(rope.scaling);
                    all["rope_theta"] = rope.theta.into();
                    all
                };
                object.insert("rope_local_base_freq".into(), local.theta.into());
                let both = json!({"full_attention": parameters(&self.rope), "sliding_attention": parameters(local)});
                object.insert("rope_parameters".into(), both);
            }
        }
        json
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
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(config: Value) -> Result<LlamaConfig> {
        LlamaConfig::from_json(&config.to_string(), Path::new("m/config.json"))
    }

    fn v4() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false,
            "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
            "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "vocab_size": 128256
        })
    }

    /// `v4` with `keys` put over it; null takes a key away.
    fn v4_with(keys: Value) -> Value {
        let mut config = v4();
        for (key, value) in keys.as_object().unwrap() {
            match value {
                Value::Null => drop(config.as_object_mut().unwrap().shift_remove(key)),
                value => config[key] = value.clone(),
            }
        }
        config
    }

    fn problems(keys: Value) -> String {
        read(v4_with(keys)).unwrap_err().to_string()
    }

    #[test]
    fn both_spellings_read_the_same() {
        let config = read(v4()).unwrap();
        assert_eq!(config.head_dim, 128);
        assert_eq!(config.eos_token_ids, [128001, 128008, 128009]);
        assert_eq!(config.dtype, Dtype::Bf16);
        assert_eq!(config.num_parameters(), 8_030_261_248);
        let v5 = v4_with(json!({
            "rope_theta": null, "rope_scaling": null, "torch_dtype": null, "dtype": "bfloat16",
            "rope_parameters": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_theta": 500000.0,
                                "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        }));
        assert_eq!(read(v5).unwrap(), config);
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let sizes = json!({"model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128,
                           "num_hidden_layers": 2, "num_attention_heads": 4});
        let config = read(sizes).unwrap();
        assert_eq!((config.head_dim, config.num_key_value_heads, config.max_position_embeddings), (16, 4, 2048));
        assert_eq!((config.rms_norm_eps, config.initializer_range), (1e-6, 0.02));
        assert_eq!(config.rope, RopeConfig { theta: 10_000.0, scaling: RopeScaling::Default });
        assert_eq!((config.bos_token_id, config.eos_token_ids, config.pad_token_id), (Some(1), vec![2], None));
        assert!(!config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
    }

    #[test]
    fn what_does_not_change_the_products_is_read_and_auto_is_the_files_dtype() {
        let config =
            read(v4_with(json!({"pretraining_tp": 4, "attention_dropout": 0.1, "torch_dtype": "auto"}))).unwrap();
        assert_eq!((config.attention_dropout, config.dtype), (0.1, Dtype::F32));
        assert_eq!(read(config.to_hf_json()).unwrap(), config);
    }

    #[test]
    fn null_and_minus_one_mean_no_such_token() {
        let mut config = v4();
        config["bos_token_id"] = Value::Null;
        config["eos_token_id"] = Value::Null;
        config["pad_token_id"] = json!(-1);
        let config = read(config).unwrap();
        assert_eq!((config.bos_token_id, config.eos_token_ids, config.pad_token_id), (None, vec![], None));
    }

    #[test]
    fn hf_json_reads_back_the_same() {
        let mut config = read(v4()).unwrap();
        assert_eq!(read(config.to_hf_json()).unwrap(), config);
        config.rope = RopeConfig { theta: 1e4, scaling: RopeScaling::Linear { factor: 2.0 } };
        (config.bos_token_id, config.eos_token_ids, config.tie_word_embeddings) = (None, vec![], true);
        assert_eq!(read(config.to_hf_json()).unwrap(), config);
    }

    #[test]
    fn parameters_with_biases_and_tied_head() {
        let sizes = json!({"model_type": "llama", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "head_dim": 2,
                           "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
                           "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true});
        let (q, k, v, o) = (8 * 4 + 8, 4 * 4 + 4, 4 * 4 + 4, 4 * 8 + 4);
        let (gate, up, down) = (6 * 4 + 6, 6 * 4 + 6, 4 * 6 + 4);
        let expected = 10 * 4 + (q + k + v + o + gate + up + down + 2 * 4) + 4;
        assert_eq!(read(sizes).unwrap().num_parameters(), expected);
    }

    #[test]
    fn generation_config_names_the_stop_tokens() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), v4_with(json!({"eos_token_id": 128001})).to_string()).unwrap();
        assert_eq!(LlamaConfig::from_dir(dir.path()).unwrap().eos_token_ids, [128001]);
        let generation = dir.path().join("generation_config.json");
        std::fs::write(&generation, r#"{"eos_token_id": [128001, 128009], "pad_token_id": 128004}"#).unwrap();
        let config = LlamaConfig::from_dir(dir.path()).unwrap();
        assert_eq!((config.eos_token_ids, config.pad_token_id), (vec![128001, 128009], Some(128004)));
        std::fs::write(&generation, r#"{"eos_token_id": "</s>"}"#).unwrap();
        let error = LlamaConfig::from_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("generation_config.json: eos_token_id: must be a token id"), "{error}");
    }

    #[test]
    fn another_architecture_is_named() {
        let error = problems(json!({"architectures": ["FalconForCausalLM"], "model_type": "falcon"}));
        let expected = "m/config.json: the architecture is FalconForCausalLM (model_type \"falcon\"); \
                        supported: LlamaForCausalLM (model_type \"llama\"), MistralForCausalLM (model_type \"mistral\"), ";
        assert!(error.starts_with(expected), "{error}");
        let error = problems(json!({"architectures": ["LlamaForSequenceClassification"]}));
        assert!(error.contains("the architecture is LlamaForSequenceClassification (model_type"), "{error}");
        let error = problems(json!({"architectures": null, "model_type": null}));
        assert!(error.contains("not named"), "{error}");
        assert!(read(v4_with(json!({"architectures": null}))).is_ok());
    }

    #[test]
    fn every_problem_is_in_one_error() {
        let error = problems(json!({
            "hidden_size": null, "vocab_size": "big", "num_hidden_layers": 0, "hidden_act": "gelu", "pretraining_tp": 0, "attention_dropout": 1.5,
            "rms_norm_eps": -1, "num_key_value_heads": 5, "mlp_bias": "yes", "torch_dtype": "int8", "eos_token_id": "x",
            "rope_scaling": {"type": "ntk", "factor": 2.0}, "quantization_config": {"bits": 4},
        }));
        for part in [
            "hidden_size: is missing",
            "vocab_size: must be a whole number from 1 to 268435456, but is \"big\"",
            "num_hidden_layers: must be a whole number from 1 to 268435456, but is 0",
            "hidden_act: is \"gelu\"; only \"silu\" is supported",
            "pretraining_tp: must be a whole number from 1 to 268435456, but is 0",
            "attention_dropout: is 1.5; it is a probability, from 0 to below 1",
            "rms_norm_eps: must be a number above 0, but is -1",
            "num_attention_heads: 32 is not a multiple of num_key_value_heads 5",
            "mlp_bias: must be true or false, but is \"yes\"",
            "torch_dtype: \"int8\" is not supported",
            "eos_token_id: must be a token id or a list of them, but is \"x\"",
            "rope_scaling.rope_type: \"ntk\" is not supported (supported: default, linear, llama3, dynamic, yarn, longrope)",
            "quantization_config: quantised weights are not supported",
        ] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn impossible_rope_and_head_sizes_are_refused() {
        let error = problems(json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                                                     "high_freq_factor": 4.0}}));
        assert!(error.contains("rope_scaling.low_freq_factor: 4 must be below high_freq_factor 4"), "{error}");
        let error = problems(json!({"rope_scaling": "linear"}));
        assert!(error.contains("rope_scaling: must be an object"), "{error}");
        let error = problems(json!({"rope_scaling": {"type": "linear"}}));
        assert!(error.contains("rope_scaling.factor: is missing"), "{error}");
        let error = problems(json!({"head_dim": 63}));
        assert!(error.contains("head_dim: 63 must be even"), "{error}");
        let error = problems(json!({"hidden_size": 4100}));
        assert!(error.contains("hidden_size: 4100 is not a multiple of num_attention_heads 32"), "{error}");
    }

    #[test]
    fn sizes_beyond_any_model_neither_overflow_nor_pass() {
        let large = json!({"hidden_size": 1 << 28, "intermediate_size": 1 << 28, "num_attention_heads": 1 << 28,
                           "num_key_value_heads": 1 << 28, "head_dim": 1 << 28, "num_hidden_layers": 1 << 28});
        assert_eq!(read(v4_with(large)).unwrap().num_parameters(), usize::MAX);
        let error = problems(json!({"vocab_size": u64::MAX}));
        assert!(error.contains("vocab_size: must be a whole number from 1 to 268435456"), "{error}");
    }

    #[test]
    fn unreadable_files_are_named() {
        let error = LlamaConfig::from_dir("no/such/dir").unwrap_err().to_string();
        assert!(error.starts_with("no/such/dir/config.json: "), "{error}");
        let error = LlamaConfig::from_json("{\"vocab_size\": ", Path::new("m/config.json")).unwrap_err().to_string();
        assert!(error.starts_with("m/config.json is not valid JSON"), "{error}");
    }
}
