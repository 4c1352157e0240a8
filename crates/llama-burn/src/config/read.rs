//! From the JSON of transformers to [`LlamaConfig`], collecting every problem on the way.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Dtype, LlamaConfig, RopeConfig, RopeScaling};
use crate::error::{LlamaError, Result};

/// What `architectures` may name.
const ARCHITECTURES: &[&str] = &["LlamaForCausalLM"];
/// The largest size taken at its word: beyond any model, and products of sizes stay within 128 bits.
const MAX_SIZE: u64 = 1 << 28;
/// `rope_theta` where no key gives it.
const DEFAULT_THETA: f64 = 10_000.0;

pub(super) fn config(text: &str, origin: &Path) -> Result<LlamaConfig> {
    let object: Map<String, Value> = serde_json::from_str(text).map_err(LlamaError::json(origin))?;
    check_architecture(&object, origin)?;
    let mut keys = Keys { object: &object, prefix: "", problems: Vec::new() };

    let hidden_size = keys.size("hidden_size", None);
    let num_attention_heads = keys.size("num_attention_heads", None);
    let config = LlamaConfig {
        vocab_size: keys.size("vocab_size", None),
        hidden_size,
        intermediate_size: keys.size("intermediate_size", None),
        num_hidden_layers: keys.size("num_hidden_layers", None),
        num_attention_heads,
        num_key_value_heads: keys.size("num_key_value_heads", Some(num_attention_heads)),
        head_dim: keys.size("head_dim", Some(hidden_size / num_attention_heads)),
        max_position_embeddings: keys.size("max_position_embeddings", Some(2048)),
        rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6)),
        rope: rope(&mut keys),
        attention_bias: keys.flag("attention_bias"),
        mlp_bias: keys.flag("mlp_bias"),
        attention_dropout: keys.probability("attention_dropout"),
        tie_word_embeddings: keys.flag("tie_word_embeddings"),
        initializer_range: keys.positive("initializer_range", Some(0.02)),
        bos_token_id: keys.ids("bos_token_id").map_or(Some(1), |ids| ids.first().copied()),
        eos_token_ids: keys.ids("eos_token_id").unwrap_or_else(|| vec![2]),
        pad_token_id: keys.ids("pad_token_id").and_then(|ids| ids.first().copied()),
        dtype: dtype(&mut keys),
    };
    keys.check_unsupported();
    keys.check_consistency(&config);
    keys.finish(origin)?;
    Ok(config)
}

pub(super) fn generation_config(config: &mut LlamaConfig, text: &str, origin: &Path) -> Result<()> {
    let object: Map<String, Value> = serde_json::from_str(text).map_err(LlamaError::json(origin))?;
    let mut keys = Keys { object: &object, prefix: "", problems: Vec::new() };
    let eos = keys.ids("eos_token_id").unwrap_or_default();
    let pad = keys.ids("pad_token_id").unwrap_or_default();
    keys.finish(origin)?;
    if !eos.is_empty() {
        config.eos_token_ids = eos;
    }
    config.pad_token_id = config.pad_token_id.or(pad.first().copied());
    Ok(())
}

fn check_architecture(object: &Map<String, Value>, origin: &Path) -> Result<()> {
    let architectures: Vec<&str> =
        object.get("architectures").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let model_type = object.get("model_type").and_then(Value::as_str);
    let known_class = architectures.is_empty() || architectures.iter().any(|name| ARCHITECTURES.contains(name));
    let known_type = model_type.map_or(!architectures.is_empty(), |model_type| model_type == "llama");
    if known_class && known_type {
        return Ok(());
    }
    let found = match (architectures.as_slice(), model_type) {
        ([], None) => "not named (neither architectures nor model_type)".to_string(),
        ([], Some(model_type)) => format!("model_type {model_type:?}"),
        (names, None) => names.join(", "),
        (names, Some(model_type)) => format!("{} (model_type {model_type:?})", names.join(", ")),
    };
    let supported = format!("{} (model_type \"llama\")", ARCHITECTURES.join(", "));
    Err(LlamaError::UnsupportedArchitecture { path: origin.to_path_buf(), found, supported })
}

/// transformers lets `rope_scaling` win over `rope_parameters`, and a theta inside either over `rope_theta` beside it.
fn rope(keys: &mut Keys<'_>) -> RopeConfig {
    let outer_theta = keys.positive("rope_theta", Some(DEFAULT_THETA));
    let found = ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| {
        keys.get(key).filter(|v| v.as_object().is_none_or(|o| !o.is_empty())).map(|value| (key, value))
    });
    let Some((name, value)) = found else {
        return RopeConfig { theta: outer_theta, scaling: RopeScaling::Default };
    };
    let Some(object) = value.as_object() else {
        keys.problem(name, format_args!("must be an object, but is {value}"));
        return RopeConfig { theta: outer_theta, scaling: RopeScaling::Default };
    };
    let context = keys.size("max_position_embeddings", Some(2048));
    let mut inner = Keys { object, prefix: name, problems: Vec::new() };
    let theta = inner.positive("rope_theta", Some(outer_theta));
    // `type` is the spelling of transformers before 4.43.
    let kind = inner.get("rope_type").or(inner.get("type")).cloned().unwrap_or_else(|| "default".into());
    let scaling = match kind.as_str() {
        Some("default") => RopeScaling::Default,
        Some("linear") => RopeScaling::Linear { factor: inner.positive("factor", None) },
        Some("llama3") => RopeScaling::Llama3 {
            factor: inner.positive("factor", None),
            low_freq_factor: inner.positive("low_freq_factor", None),
            high_freq_factor: inner.positive("high_freq_factor", None),
            original_max_position_embeddings: inner.size("original_max_position_embeddings", Some(context)),
        },
        _ => {
            inner.problem("rope_type", format_args!("{kind} is not supported (supported: default, linear, llama3)"));
            RopeScaling::Default
        }
    };
    if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
        && low_freq_factor >= high_freq_factor
    {
        inner.problem(
            "low_freq_factor",
            format_args!("{low_freq_factor} must be below high_freq_factor {high_freq_factor}"),
        );
    }
    inner.require("partial_rotary_factor", |v| v.as_f64() == Some(1.0), "only 1.0 is supported");
    keys.problems.append(&mut inner.problems);
    RopeConfig { theta, scaling }
}

fn dtype(keys: &mut Keys<'_>) -> Dtype {
    let name = if keys.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(value) = keys.get(name) else { return Dtype::F32 };
    match value.as_str().map(|text| text.trim_start_matches("torch.")) {
        Some("float32" | "float" | "auto") => Dtype::F32,
        Some("float16" | "half") => Dtype::F16,
        Some("bfloat16") => Dtype::Bf16,
        _ => {
            keys.problem(name, format_args!("{value} is not supported (supported: float32, float16, bfloat16)"));
            Dtype::F32
        }
    }
}

/// A JSON object being read. A getter notes what is wrong and returns a stand-in, so that reading goes on and all
/// problems are reported together.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    prefix: &'static str,
    problems: Vec<String>,
}

impl<'a> Keys<'a> {
    /// The value of `key`; null counts as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn problem(&mut self, key: &str, message: impl std::fmt::Display) {
        let dot = if self.prefix.is_empty() { "" } else { "." };
        let problem = format!("{}{dot}{key}: {message}", self.prefix);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// A size: a whole number from 1 to [`MAX_SIZE`].
    fn size(&mut self, key: &str, default: Option<usize>) -> usize {
        match (self.get(key), default) {
            (None, Some(default)) => return default,
            (None, None) => self.problem(key, "is missing"),
            (Some(value), _) => match value.as_u64().filter(|n| (1..=MAX_SIZE).contains(n)) {
                Some(size) => return size as usize,
                None => self.problem(key, format_args!("must be a whole number from 1 to {MAX_SIZE}, but is {value}")),
            },
        }
        1
    }

    /// A number above zero.
    fn positive(&mut self, key: &str, default: Option<f64>) -> f64 {
        match (self.get(key), default) {
            (None, Some(default)) => return default,
            (None, None) => self.problem(key, "is missing"),
            (Some(value), _) => match value.as_f64().filter(|&x| x > 0.0 && x.is_finite()) {
                Some(number) => return number,
                None => self.problem(key, format_args!("must be a number above 0, but is {value}")),
            },
        }
        1.0
    }

    /// A probability below 1, which is 0 unless set.
    fn probability(&mut self, key: &str) -> f64 {
        let Some(value) = self.get(key) else { return 0.0 };
        value.as_f64().filter(|p| (0.0..1.0).contains(p)).unwrap_or_else(|| {
            self.problem(key, format_args!("is {value}; it is a probability, from 0 to below 1"));
            0.0
        })
    }

    /// A flag that is false unless set.
    fn flag(&mut self, key: &str) -> bool {
        let Some(value) = self.get(key) else { return false };
        value.as_bool().unwrap_or_else(|| {
            self.problem(key, format_args!("must be true or false, but is {value}"));
            false
        })
    }

    /// Token ids: `None` for an absent key, empty for null. Old configs write -1 for a token they do not have.
    fn ids(&mut self, key: &str) -> Option<Vec<u32>> {
        let value = self.object.get(key)?;
        let values = match value {
            Value::Null => &[],
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut ids = Vec::new();
        for id in values {
            match id.as_i64() {
                Some(-1) => {}
                Some(number) if u32::try_from(number).is_ok() => ids.push(number as u32),
                _ => self.problem(key, format_args!("must be a token id or a list of them, but is {value}")),
            }
        }
        Some(ids)
    }

    /// Notes a problem where `key` has a value that is not `accepted`.
    fn require(&mut self, key: &str, accepted: impl Fn(&Value) -> bool, message: &str) {
        if let Some(value) = self.get(key).filter(|value| !accepted(value)) {
            self.problem(key, format_args!("is {value}; {message}"));
        }
    }

    /// Settings that would change what the model computes.
    fn check_unsupported(&mut self) {
        let silu = |value: &Value| matches!(value.as_str(), Some("silu" | "swish"));
        self.require("hidden_act", silu, "only \"silu\" is supported");
        // The slices that pretraining was done in: the products are the same.
        self.size("pretraining_tp", Some(1));
        self.require("partial_rotary_factor", |v| v.as_f64() == Some(1.0), "only 1.0 is supported");
        if self.get("quantization_config").is_some() {
            self.problem("quantization_config", "quantised weights are not supported; take the original checkpoint");
        }
    }

    fn check_consistency(&mut self, config: &LlamaConfig) {
        let LlamaConfig { hidden_size, num_attention_heads: heads, num_key_value_heads: kv, head_dim, .. } = *config;
        if self.get("head_dim").is_none() && hidden_size % heads != 0 {
            self.problem("hidden_size", format_args!("{hidden_size} is not a multiple of num_attention_heads {heads}"));
        } else if head_dim % 2 != 0 && self.problems.is_empty() {
            self.problem("head_dim", format_args!("{head_dim} must be even for the rotary embedding"));
        }
        if heads % kv != 0 {
            self.problem("num_attention_heads", format_args!("{heads} is not a multiple of num_key_value_heads {kv}"));
        }
    }

    fn finish(self, origin: &Path) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(LlamaError::Config { path: origin.to_path_buf(), message: self.problems.join("; ") })
    }
}
