//! The keys of the rotary embedding in `config.json`, in the spellings of Transformers 4 and 5.

use peft_burn::Object;
use serde_json::Value;

use super::keys::Keys;
use super::{RopeConfig, RopeScaling};

/// The theta of Gemma 3's windowed layers, where no key gives it.
const LOCAL_THETA: f64 = 10_000.0;
/// The keys of a nested `rope_parameters`.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// The facts that a family's reader needs.
pub(super) struct Surrounding {
    pub model_type: &'static str,
    pub theta: f64,
    pub context: usize,
    /// How many values of a head turn.
    pub dims: usize,
}

/// The model's rotary embedding, and that of its windowed layers where they have one of their own (Gemma 3).
///
/// Transformers lets `rope_scaling` win over `rope_parameters`, and a theta inside either over `rope_theta` beside it.
pub(super) fn ropes(keys: &mut Keys<'_>, of: &Surrounding) -> (RopeConfig, Option<RopeConfig>) {
    if of.model_type == "gemma3_text" {
        let (main, local) = nested(keys, of);
        return (main, Some(local));
    }
    let theta = keys.positive("rope_theta", Some(of.theta));
    let Some((name, object)) = parameters(keys) else {
        return (RopeConfig { theta, scaling: RopeScaling::Default }, None);
    };
    if LAYER_TYPES.iter().any(|key| object.contains_key(*key)) {
        keys.problem(name, format_args!("is given for each kind of layer, which {} does not have", of.model_type));
        return (RopeConfig { theta, scaling: RopeScaling::Default }, None);
    }
    // Phi-3 gives the length of pretraining beside.
    let original = (of.model_type == "phi3").then(|| keys.size("original_max_position_embeddings", Some(4096)));
    (one(&mut keys.inner(name, object), of, theta, original), None)
}

/// How many values of heads of `head_dim` turn.
pub(super) fn rotary_dim(keys: &mut Keys<'_>, head_dim: usize) -> usize {
    let factor = parameters(keys).and_then(|(_, object)| object.get("partial_rotary_factor").cloned());
    let factor = factor.or_else(|| keys.get("partial_rotary_factor"));
    let Some(value) = factor.filter(|value| !value.is_null()) else { return head_dim };
    let dims = value.as_f64().filter(|f| (0.0..=1.0).contains(f)).map(|factor| (head_dim as f64 * factor) as usize);
    dims.filter(|dims| *dims >= 2 && dims.is_multiple_of(2)).unwrap_or_else(|| {
        keys.problem(
            "partial_rotary_factor",
            format_args!("is {value}; it is the share of a head's {head_dim} values that turn, an even number of them"),
        );
        head_dim
    })
}

/// The object with the parameters, and its key.
fn parameters(keys: &mut Keys<'_>) -> Option<(&'static str, Object)> {
    let name = ["rope_scaling", "rope_parameters"]
        .into_iter()
        .find(|key| keys.get(key).is_some_and(|v| v.as_object().is_none_or(|o| !o.is_empty())))?;
    keys.object(name).map(|object| (name, object))
}

/// Gemma 3's two: nested under the kinds of layers, or side by side as Transformers 4 wrote them.
fn nested(keys: &mut Keys<'_>, of: &Surrounding) -> (RopeConfig, RopeConfig) {
    let theta = keys.positive("rope_theta", Some(of.theta));
    let local_theta = keys.positive("rope_local_base_freq", Some(LOCAL_THETA));
    let outer = keys.object("rope_parameters").unwrap_or_default();
    let scaling = keys.object("rope_scaling").unwrap_or_default();
    if !outer.is_empty() && !LAYER_TYPES.iter().any(|key| outer.contains_key(*key)) {
        keys.problem("rope_parameters", "must have full_attention and sliding_attention, with parameters each");
    }
    let mut read = |kind: &str, theta: f64, over: Object| {
        let mut object = outer.get(kind).and_then(Value::as_object).cloned().unwrap_or_default();
        object.extend(over);
        one(&mut keys.inner(&format!("rope_parameters.{kind}"), object), of, theta, None)
    };
    let main = read(LAYER_TYPES[0], theta, scaling);
    let local = read(LAYER_TYPES[1], local_theta, Object::new());
    (main, local)
}

/// One rotary embedding. `original` goes before the key within.
fn one(keys: &mut Keys<'_>, of: &Surrounding, theta: f64, original: Option<usize>) -> RopeConfig {
    let theta = keys.positive("rope_theta", Some(theta));
    // `type` is the spelling of transformers before 4.43.
    let kind = keys.get("rope_type").or_else(|| keys.get("type")).unwrap_or_else(|| "default".into());
    let kind_name = match kind.as_str() {
        // The name in the first releases of Phi-3.
        Some("su" | "yarn") if of.model_type == "phi3" => "longrope",
        Some(name) => name,
        None => "",
    };
    let pretrained = |keys: &mut Keys<'_>| {
        original.unwrap_or_else(|| keys.size("original_max_position_embeddings", Some(of.context)))
    };
    let scaling = match kind_name {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: keys.positive("factor", None) },
        "dynamic" => RopeScaling::Dynamic { factor: keys.positive("factor", None) },
        "llama3" => RopeScaling::Llama3 {
            factor: keys.positive("factor", None),
            low_freq_factor: keys.positive("low_freq_factor", None),
            high_freq_factor: keys.positive("high_freq_factor", None),
            original_max_position_embeddings: pretrained(keys),
        },
        "yarn" => {
            let original = pretrained(keys);
            let ratio = of.context as f64 / original as f64;
            RopeScaling::Yarn {
                factor: if keys.is_null("factor") { ratio } else { keys.positive("factor", None) },
                attention_factor: keys.positive_or_none("attention_factor", None),
                beta_fast: keys.positive("beta_fast", Some(32.0)),
                beta_slow: keys.positive("beta_slow", Some(1.0)),
                mscale: keys.get("mscale").and_then(|v| v.as_f64()).filter(|&scale| scale != 0.0),
                mscale_all_dim: keys.get("mscale_all_dim").and_then(|v| v.as_f64()).filter(|&scale| scale != 0.0),
                truncate: keys.flag("truncate", true),
                original_max_position_embeddings: original,
            }
        }
        "longrope" => RopeScaling::LongRope {
            short_factor: keys.positives("short_factor", of.dims / 2),
            long_factor: keys.positives("long_factor", of.dims / 2),
            factor: keys.positive_or_none("factor", None),
            attention_factor: keys.positive_or_none("attention_factor", None),
            original_max_position_embeddings: pretrained(keys),
        },
        _ => {
            keys.problem(
                "rope_type",
                format_args!("{kind} is not supported (supported: default, linear, llama3, dynamic, yarn, longrope)"),
            );
            RopeScaling::Default
        }
    };
    if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
        && low_freq_factor >= high_freq_factor
    {
        keys.problem(
            "low_freq_factor",
            format_args!("{low_freq_factor} must be below high_freq_factor {high_freq_factor}"),
        );
    }
    if matches!(scaling, RopeScaling::Dynamic { .. }) && of.dims <= 2 {
        keys.problem("rope_type", "dynamic needs heads of more than two values");
    }
    if of.model_type != "phi3" {
        keys.require("partial_rotary_factor", |v| v.as_f64() == Some(1.0), "only 1.0 is supported");
    }
    RopeConfig { theta, scaling }
}
