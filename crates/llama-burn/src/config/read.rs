//! From the JSON of transformers to [`LlamaConfig`], collecting every problem on the way.

use std::path::Path;

use peft_burn::Object;
use peft_burn::reader::Reader;
use serde_json::Value;

use super::decoder::{Decoder, LayerKind};
use super::family::{self, Family, family};
use super::keys::Keys;
use super::rope_keys::{self, Surrounding};
use super::{Dtype, LlamaConfig, RopeConfig, RopeScaling};
use crate::error::{LlamaError, Result};
use crate::quantization::BaseQuantization;

pub(super) fn config(text: &str, origin: &Path) -> Result<LlamaConfig> {
    let object: Object = serde_json::from_str(text).map_err(LlamaError::json(origin))?;
    let family = family_of(&object, origin)?;
    let defaults = family.defaults;
    let mut reader = Reader::default();
    let mut keys = Keys(reader.section("", object));

    let hidden_size = keys.size("hidden_size", None);
    let num_attention_heads = keys.size("num_attention_heads", None);
    let head_dim = keys.size("head_dim", Some(defaults.head_dim.unwrap_or(hidden_size / num_attention_heads)));
    let kv_heads = defaults.kv_heads.filter(|_| !keys.is_null("num_key_value_heads")).unwrap_or(num_attention_heads);
    let num_hidden_layers = keys.size("num_hidden_layers", None);
    if num_hidden_layers > MAX_LAYERS {
        keys.problem("num_hidden_layers", format_args!("is {num_hidden_layers}; {MAX_LAYERS} are possible"));
    }
    let id = |keys: &mut Keys<'_>, key, default| keys.ids(key).map_or(default, |ids| ids.first().copied());
    let mut config = LlamaConfig {
        model_type: family.model_type.to_owned(),
        vocab_size: keys.size("vocab_size", None),
        hidden_size,
        intermediate_size: keys.size("intermediate_size", None),
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys.size("num_key_value_heads", Some(kv_heads)),
        head_dim,
        max_position_embeddings: keys.size("max_position_embeddings", Some(defaults.context)),
        rms_norm_eps: keys.positive("rms_norm_eps", Some(defaults.eps)),
        rope: RopeConfig { theta: defaults.theta, scaling: RopeScaling::Default },
        attention_bias: false,
        mlp_bias: false,
        attention_dropout: keys.probability("attention_dropout"),
        tie_word_embeddings: keys.flag("tie_word_embeddings", defaults.tied),
        initializer_range: keys.positive("initializer_range", Some(0.02)),
        bos_token_id: id(&mut keys, "bos_token_id", defaults.bos),
        eos_token_ids: keys.ids("eos_token_id").unwrap_or_else(|| defaults.eos.into_iter().collect()),
        pad_token_id: id(&mut keys, "pad_token_id", defaults.pad),
        dtype: dtype(&mut keys),
        decoder: Decoder {
            gate: family.activation.2,
            rotary_dim: head_dim,
            // A count that is beyond any model is a problem of the tensors, not of memory here.
            layers: vec![LayerKind::default(); num_hidden_layers.min(MAX_LAYERS)],
            own_keys: family.keys.iter().filter_map(|key| Some((key.to_string(), keys.0.raw(key)?))).collect(),
            ..Decoder::default()
        },
    };
    (family.switches)(&mut keys, &mut config);
    let dims = config.decoder.rotary_dim;
    let of = Surrounding {
        model_type: family.model_type,
        theta: defaults.theta,
        context: config.max_position_embeddings,
        dims,
    };
    (config.rope, config.decoder.local_rope) = rope_keys::ropes(&mut keys, &of);
    check_unsupported(&mut keys, family);
    check_consistency(&mut keys, &config, defaults.head_dim.is_some());
    finish(reader, origin)?;
    Ok(config)
}

/// Layers whose kinds are kept; no model has more.
const MAX_LAYERS: usize = 1 << 16;

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

/// The family that `model_type` names, or `architectures` where there is none.
fn family_of(object: &Object, origin: &Path) -> Result<&'static Family> {
    let architectures: Vec<&str> =
        object.get("architectures").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let model_type = object.get("model_type").and_then(Value::as_str);
    let of_class = || family::FAMILIES.iter().find(|family| architectures.contains(&family.class));
    let known = match model_type {
        Some(model_type) => family(model_type),
        None => of_class(),
    };
    // A class that is not the family's own has another head, or none.
    let of_family = |family: &&Family| architectures.is_empty() || architectures.contains(&family.class);
    if let Some(family) = known.filter(of_family) {
        return Ok(family);
    }
    let found = match (architectures.as_slice(), model_type) {
        ([], None) => "not named (neither architectures nor model_type)".to_string(),
        ([], Some(model_type)) => format!("model_type {model_type:?}"),
        (names, None) => names.join(", "),
        (names, Some(model_type)) => format!("{} (model_type {model_type:?})", names.join(", ")),
    };
    Err(LlamaError::UnsupportedArchitecture { path: origin.to_path_buf(), found, supported: family::supported() })
}

/// Every problem of the file in one error.
fn finish(reader: Reader, origin: &Path) -> Result<()> {
    let problems = reader.problems();
    if problems.is_empty() {
        return Ok(());
    }
    Err(LlamaError::Config { path: origin.to_path_buf(), problems })
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

/// Settings that would change what the model computes.
fn check_unsupported(keys: &mut Keys<'_>, family: &Family) {
    let (key, values, _) = family.activation;
    let known = |value: &Value| value.as_str().is_some_and(|name| values.contains(&name));
    keys.require(key, known, &format!("only \"{}\" is supported", values[0]));
    // The slices that pretraining was done in: the products are the same.
    keys.size("pretraining_tp", Some(1));
    if family.model_type != "phi3" {
        keys.require("partial_rotary_factor", |v| v.as_f64() == Some(1.0), "only 1.0 is supported");
    }
    if let Some(config) = keys.get("quantization_config")
        && let Err(problems) = BaseQuantization::from_json(&config)
    {
        keys.problem("quantization_config", problems.join("; "));
    }
}

fn check_consistency(keys: &mut Keys<'_>, config: &LlamaConfig, own_head_dim: bool) {
    let LlamaConfig { hidden_size, num_attention_heads: heads, num_key_value_heads: kv, head_dim, .. } = *config;
    if keys.get("head_dim").is_none() && !own_head_dim && hidden_size % heads != 0 {
        keys.problem("hidden_size", format_args!("{hidden_size} is not a multiple of num_attention_heads {heads}"));
    } else if head_dim % 2 != 0 && config.decoder.rotary_dim == head_dim && keys.0.is_fine() {
        keys.problem("head_dim", format_args!("{head_dim} must be even for the rotary embedding"));
    }
    if heads % kv != 0 {
        keys.problem("num_attention_heads", format_args!("{heads} is not a multiple of num_key_value_heads {kv}"));
    }
}
