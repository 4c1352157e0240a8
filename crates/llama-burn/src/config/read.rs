//! From the JSON of transformers to [`LlamaConfig`], collecting every problem on the way.

use std::path::Path;

use peft_burn::Object;
use peft_burn::reader::Reader;
use serde_json::Value;

use super::keys::Keys;
use super::{Dtype, LlamaConfig, RopeConfig, RopeScaling};
use crate::error::{LlamaError, Result};

/// The supported `architectures`.
const ARCHITECTURES: &[&str] = &["LlamaForCausalLM"];
/// `rope_theta` where no key gives it.
const DEFAULT_THETA: f64 = 10_000.0;

pub(super) fn config(text: &str, origin: &Path) -> Result<LlamaConfig> {
    let object: Object = serde_json::from_str(text).map_err(LlamaError::json(origin))?;
    check_architecture(&object, origin)?;
    let mut reader = Reader::default();
    let mut keys = Keys(reader.section("", object));

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
    check_unsupported(&mut keys);
    check_consistency(&mut keys, &config);
    finish(reader, origin)?;
    Ok(config)
}

pub(super) fn generation_config(config: &mut LlamaConfig, text: &str, origin: &Path) -> Result<()> {
    let object: Object = serde_json::from_str(text).map_err(LlamaError::json(origin))?;
    let mut reader = Reader::default();
    let mut keys = Keys(reader.section("", object));
    let eos = keys.ids("eos_token_id").unwrap_or_default();
    let pad = keys.ids("pad_token_id").unwrap_or_default();
    finish(reader, origin)?;
    if !eos.is_empty() {
        config.eos_token_ids = eos;
    }
    config.pad_token_id = config.pad_token_id.or(pad.first().copied());
    Ok(())
}

fn check_architecture(object: &Object, origin: &Path) -> Result<()> {
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

/// Every problem of the file in one error.
fn finish(reader: Reader, origin: &Path) -> Result<()> {
    let problems = reader.problems();
    if problems.is_empty() {
        return Ok(());
    }
    Err(LlamaError::Config { path: origin.to_path_buf(), message: problems.join("; ") })
}

/// Settings that would change what the model computes.
fn check_unsupported(keys: &mut Keys<'_>) {
    let silu = |value: &Value| matches!(value.as_str(), Some("silu" | "swish"));
    keys.require("hidden_act", silu, "only \"silu\" is supported");
    // The slices that pretraining was done in: the products are the same.
    keys.size("pretraining_tp", Some(1));
    keys.require("partial_rotary_factor", |v| v.as_f64() == Some(1.0), "only 1.0 is supported");
    if keys.get("quantization_config").is_some() {
        keys.problem("quantization_config", "quantised weights are not supported; take the original checkpoint");
    }
}

fn check_consistency(keys: &mut Keys<'_>, config: &LlamaConfig) {
    let LlamaConfig { hidden_size, num_attention_heads: heads, num_key_value_heads: kv, head_dim, .. } = *config;
    if keys.get("head_dim").is_none() && hidden_size % heads != 0 {
        keys.problem("hidden_size", format_args!("{hidden_size} is not a multiple of num_attention_heads {heads}"));
    } else if head_dim % 2 != 0 && keys.0.is_fine() {
        keys.problem("head_dim", format_args!("{head_dim} must be even for the rotary embedding"));
    }
    if heads % kv != 0 {
        keys.problem("num_attention_heads", format_args!("{heads} is not a multiple of num_key_value_heads {kv}"));
    }
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
    let Value::Object(object) = value else {
        keys.problem(name, format_args!("must be an object, but is {value}"));
        return RopeConfig { theta: outer_theta, scaling: RopeScaling::Default };
    };
    let context = keys.size("max_position_embeddings", Some(2048));
    let mut inner = Keys(keys.0.inner(name, object));
    let theta = inner.positive("rope_theta", Some(outer_theta));
    // `type` is the spelling of transformers before 4.43.
    let kind = inner.get("rope_type").or_else(|| inner.get("type")).unwrap_or_else(|| "default".into());
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
