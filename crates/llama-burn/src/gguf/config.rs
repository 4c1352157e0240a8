//! The metadata of a GGUF file as a `config.json`.

use burn::tensor::DType;
use serde_json::{Map, Value as Json, json};

use super::dequantise::Kind;
use super::names::Places;
use super::reader::Gguf;
use super::value::Value;
use crate::error::Result;

/// The architectures that are read, and the `model_type` of each.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("llama", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3_text"),
    ("phi3", "phi3"),
    ("smollm3", "smollm3"),
    ("olmo2", "olmo2"),
    ("granite", "granite"),
];

/// A model's shape, and what reading its weights needs.
#[derive(Debug)]
pub(super) struct Shape {
    pub config: Json,
    /// The architecture, as llama.cpp calls it.
    pub arch: String,
    /// Query heads and key heads.
    pub heads: [usize; 2],
}

/// Numbers of the metadata under the architecture's name.
struct Keys<'a> {
    file: &'a Gguf,
    arch: &'a str,
    missing: Vec<String>,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.file.get(&format!("{}.{key}", self.arch))
    }

    /// A size that must be there.
    fn size(&mut self, key: &str) -> u64 {
        let found = self.get(key).and_then(Value::as_u64);
        found.unwrap_or_else(|| {
            self.missing.push(format!("{}.{key}", self.arch));
            1
        })
    }

    fn size_or(&self, key: &str, default: u64) -> u64 {
        self.get(key).and_then(Value::as_u64).unwrap_or(default)
    }

    fn float(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64).map(shortest)
    }
}

/// The decimal number that was rounded to a 32-bit one: `1e-5` is stored as 9.999999747378752e-6.
fn shortest(x: f64) -> f64 {
    if x.fract() == 0.0 { x } else { format!("{}", x as f32).parse().unwrap_or(x) }
}

/// Reads the shape of the model in `file`.
///
/// # Errors
/// An architecture that is not supported, and sizes that are missing.
pub(super) fn read(file: &Gguf) -> Result<Shape> {
    if let Some(kind) = file.get("general.type").and_then(Value::as_str).filter(|kind| *kind != "model") {
        return Err(file.error(format!("it holds no model but the type `{kind}`")));
    }
    let arch = file.get("general.architecture").and_then(Value::as_str).unwrap_or("not named");
    let Some((_, model_type)) = ARCHITECTURES.iter().find(|(name, _)| *name == arch) else {
        let known = ARCHITECTURES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        return Err(file.error(format!("the architecture is {arch}; supported: {known}")));
    };
    let mut keys = Keys { file, arch, missing: Vec::new() };
    let hidden = keys.size("embedding_length");
    let heads = keys.size("attention.head_count");
    let kv_heads = keys.size_or("attention.head_count_kv", heads);
    let layers = keys.size("block_count");
    let context = keys.size("context_length");
    let inner = keys.size("feed_forward_length");
    let turning = keys.size_or("rope.dimension_count", hidden / heads.max(1));
    let head_dim = keys.size_or("attention.key_length", if arch == "phi3" { hidden / heads.max(1) } else { turning });
    let vocab = file.tensor("token_embd.weight").and_then(|info| info.shape.first().copied());
    let Some(vocab) = vocab else { return Err(file.error("token_embd.weight is missing")) };
    if !keys.missing.is_empty() {
        return Err(file.error(format!("these keys are missing, or no sizes: {}", keys.missing.join(", "))));
    }
    let tensors = file.tensors().count();
    if layers > tensors as u64 {
        return Err(file.error(format!("{arch}.block_count is {layers}, and there are only {tensors} tensors")));
    }
    let unknown = unknown(&keys);
    if !unknown.is_empty() {
        return Err(file.error(format!("it asks for what the decoder does not compute: {}", unknown.join("; "))));
    }
    let biased = file.tensor("blk.0.attn_q.bias").is_some();
    let token = |key: &str| file.get(&format!("tokenizer.ggml.{key}")).and_then(Value::as_u64);
    let mut json = json!({
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "vocab_size": vocab,
        "rms_norm_eps": keys.float("attention.layer_norm_rms_epsilon").unwrap_or(1e-6),
        "tie_word_embeddings": file.tensor("output.weight").is_none(),
        "attention_bias": biased,
        "mlp_bias": file.tensor("blk.0.ffn_up.bias").is_some(),
        "rope_theta": keys.float("rope.freq_base").unwrap_or(10_000.0),
        "bos_token_id": token("bos_token_id"),
        "eos_token_id": token("eos_token_id"),
        "pad_token_id": token("padding_token_id"),
        "torch_dtype": dtype(file),
    });
    if let Json::Object(object) = &mut json {
        own_keys(&keys, object, [hidden, heads, head_dim, layers, turning, context]);
        rope_scaling(&keys, object, context)?;
    }
    Ok(Shape { config: json, arch: arch.to_owned(), heads: [heads as usize, kv_heads as usize] })
}

/// Keys that would change what the model computes, and that the decoder does not know.
fn unknown(keys: &Keys<'_>) -> Vec<String> {
    let set = |key: &str, plain: f64| keys.float(key).is_some_and(|value| value != plain);
    let off = |key: &str| keys.get(key).and_then(Value::as_bool) == Some(false);
    let long = keys.file.tensor("rope_factors_long.weight").is_some();
    let checks = [
        ("attention.causal", off("attention.causal"), "attention to later tokens"),
        ("expert_count", set("expert_count", 0.0), "a mixture of experts"),
        ("rope.scaling.finetuned", keys.arch == "granite" && off("rope.scaling.finetuned"), "no rotary embedding"),
        ("rope.scaling.attn_factor", !long && set("rope.scaling.attn_factor", 1.0), "a factor of rotations"),
        ("attention.sliding_window", keys.arch == "olmo2" && set("attention.sliding_window", 0.0), "OLMo 3's windows"),
    ];
    let found = checks.into_iter().filter(|(_, found, _)| *found);
    found.map(|(key, _, what)| format!("{}.{key} ({what})", keys.arch)).collect()
}

/// Writes the keys of a family beyond its sizes. Defaults that llama.cpp implies are spelled out.
fn own_keys(keys: &Keys<'_>, json: &mut Map<String, Json>, sizes: [u64; 6]) {
    let [hidden, heads, head_dim, layers, turning, _] = sizes;
    let mut put = |key: &str, value: Json| drop(json.insert(key.into(), value));
    let window = keys.get("attention.sliding_window").and_then(Value::as_u64).filter(|window| *window > 0);
    match keys.arch {
        "llama" => {
            if let Some(window) = window {
                put("model_type", "mistral".into());
                put("sliding_window", window.into());
            }
        }
        "gemma2" | "gemma3" => {
            put("sliding_window", window.or((keys.arch == "gemma2").then_some(4096)).into());
            if let Some(windowed) = windowed(keys, window, layers) {
                let name = |windowed: bool| if windowed { "sliding_attention" } else { "full_attention" };
                put("layer_types", windowed.into_iter().map(name).collect());
            }
            // The largest of each generation scales by the width.
            let largest = if keys.arch == "gemma2" { 46 } else { 62 };
            put("query_pre_attn_scalar", if layers == largest { hidden / heads.max(1) } else { head_dim }.into());
            let caps = [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)];
            for (key, default) in caps.into_iter().filter(|_| keys.arch == "gemma2") {
                put(key, keys.float(key).unwrap_or(default).into());
            }
            let theta = keys.float("rope.freq_base_swa").unwrap_or(10_000.0);
            put("rope_local_base_freq", theta.into());
            if keys.arch == "gemma3" {
                put("final_logit_softcapping", keys.float("final_logit_softcapping").filter(|cap| *cap != 0.0).into());
            }
        }
        "phi3" => {
            put("sliding_window", window.into());
            put("partial_rotary_factor", (turning as f64 / head_dim as f64).into());
            let original = keys.size_or("rope.scaling.original_context_length", sizes[5]);
            put("original_max_position_embeddings", original.into());
        }
        "granite" => {
            let scales = [
                ("embedding_scale", "embedding_multiplier"),
                ("attention.scale", "attention_multiplier"),
                ("residual_scale", "residual_multiplier"),
                ("logit_scale", "logits_scaling"),
            ];
            for (ours, theirs) in scales {
                let implied = if ours == "attention.scale" { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
                put(theirs, keys.float(ours).filter(|&scale| scale != 0.0).unwrap_or(implied).into());
            }
        }
        _ => {}
    }
}

/// Which layers of a Gemma have a window, where that is not what `config.json` implies: the file says so, or has no window.
fn windowed(keys: &Keys<'_>, window: Option<u64>, layers: u64) -> Option<Vec<bool>> {
    match keys.get("attention.sliding_window_pattern") {
        None if keys.arch == "gemma3" && window.is_none() => Some(vec![false; layers as usize]),
        None => None,
        Some(Value::List(list)) => Some(list.iter().map(|flag| flag.as_bool().unwrap_or(true)).collect()),
        // The last of each period is not; of a period of none all are.
        Some(period) => {
            let period = period.as_u64().unwrap_or_default();
            Some((0..layers).map(|layer| period == 0 || layer % period < period - 1).collect())
        }
    }
}

/// Scaling of the rotary embedding: of the keys, or of a tensor of divisors.
fn rope_scaling(keys: &Keys<'_>, json: &mut Map<String, Json>, context: u64) -> Result<()> {
    let file = keys.file;
    let factors = |name: &str| -> Option<Vec<f64>> {
        let info = file.tensor(name)?;
        Some(file.widened(info).into_iter().map(|x| shortest(f64::from(x))).collect())
    };
    let original = keys.size_or("rope.scaling.original_context_length", context);
    let scaling = if let (Some(long), Some(short)) =
        (factors("rope_factors_long.weight"), factors("rope_factors_short.weight"))
    {
        let mut scaling = json!({"rope_type": "longrope", "short_factor": short, "long_factor": long,
                                 "original_max_position_embeddings": original});
        if let Some(factor) = keys.float("rope.scaling.attn_factor") {
            scaling["attention_factor"] = factor.into();
        }
        scaling
    } else if let Some(factors) = factors("rope_freqs.weight") {
        // Llama 3's scaling, worked out: the same divisors at every length.
        json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
               "original_max_position_embeddings": context})
    } else {
        let kind = keys.get("rope.scaling.type").and_then(Value::as_str).unwrap_or("linear");
        // The second is what older files say.
        let factor = ["rope.scaling.factor", "rope.scale_linear"].iter().find_map(|key| keys.float(key));
        let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        match kind {
            "none" => return Ok(()),
            "linear" | "yarn" if factor == 1.0 => return Ok(()),
            "linear" => json!({"rope_type": "linear", "factor": factor}),
            "yarn" => {
                json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original})
            }
            _ => {
                return Err(file.error(format!(
                    "{}.rope.scaling.type is `{kind}`, and the divisors that go with it are not in the file; none, linear \
                     and yarn are known",
                    keys.arch
                )));
            }
        }
    };
    json.insert("rope_scaling".into(), scaling);
    Ok(())
}

/// The dtype that holds most of the file's weights as they are.
fn dtype(file: &Gguf) -> &'static str {
    let matrices = file.tensors().filter(|(_, info)| info.shape.len() > 1);
    let mut kinds = matrices.map(|(_, info)| info.kind);
    match kinds.next() {
        Some(Kind::BF16) if kinds.all(|kind| kind == Kind::BF16) => "bfloat16",
        Some(Kind::F16) if file.kinds().iter().all(|(kind, _)| matches!(kind, Kind::F16 | Kind::F32)) => "float16",
        _ => "float32",
    }
}

/// Where the tensors of the model in `file` are, and the dtype that holds what is not quantised as it is.
///
/// # Errors
/// As [`read`], and tensors that no supported family has.
pub(crate) fn places(file: &Gguf) -> Result<(Places, DType)> {
    let Shape { arch, heads, .. } = read(file)?;
    let dtype = match dtype(file) {
        "bfloat16" => DType::BF16,
        "float16" => DType::F16,
        _ => DType::F32,
    };
    Ok((Places::of(file, &arch, heads)?, dtype))
}
