//! A model as a GGUF file that llama.cpp runs.

use std::path::Path;

use super::dequantise::Kind;
use super::reader::Gguf;
use super::unknown::{lost, passed_over, without_place};
use super::value::Value;
use super::write::{Planned, write};
use super::{folder, mixture, names, vocabulary};
use crate::config::{LlamaConfig, RopeScaling};
use crate::error::{LlamaError, Result};
use crate::model::Llama;
use crate::weights::NamedWeight;

/// The type that the matrices of a written GGUF file are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GgufType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain floating point.
    Bf16,
    /// Eight bits and a scale for each 32 numbers.
    Q8_0,
    /// Four bits and a half for most numbers, six and a half for those that matter most: llama.cpp's mixture of this name.
    Q4KM,
}

impl GgufType {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 5] =
        [("f32", Self::F32), ("f16", Self::F16), ("bf16", Self::Bf16), ("q8_0", Self::Q8_0), ("q4_k_m", Self::Q4KM)];

    /// The type of the matrix that llama.cpp calls `name`, if its shape allows it.
    fn kind(self, config: &LlamaConfig, arch: &str, name: &str) -> Kind {
        match self {
            Self::F32 => Kind::F32,
            Self::F16 => Kind::F16,
            Self::Bf16 => Kind::BF16,
            Self::Q8_0 => Kind::Q8_0,
            Self::Q4KM => mixture::q4_k_m(config, arch, name),
        }
    }

    /// llama.cpp's number for a file of mostly this type.
    fn file_type(self) -> u64 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 32,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
        }
    }
}

/// llama.cpp's name of the model's family.
pub(super) fn arch_of(config: &LlamaConfig) -> &str {
    match config.model_type.as_str() {
        "mistral" => "llama",
        "gemma3_text" => "gemma3",
        other => other,
    }
}

/// Writes `model` to the file `path`, with the tokenizer and the template of the model directory `text`. Returns notes for the
/// user.
///
/// # Errors
/// A model or a tokenizer that GGUF cannot hold, by name; a file that cannot be written.
pub(crate) fn export(model: &Llama, text: &Path, path: &Path, kind: GgufType) -> Result<Vec<String>> {
    let config = model.config();
    let refused = |message: String| LlamaError::Gguf { path: path.to_owned(), message };
    let arch = arch_of(config);
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::Text(arch.into())),
        ("general.type".to_owned(), Value::Text("model".into())),
        ("general.file_type".to_owned(), Value::Unsigned(kind.file_type())),
        ("general.quantization_version".to_owned(), Value::Unsigned(2)),
    ];
    metadata.extend(shape(config).into_iter().map(|(key, value)| (format!("{arch}.{key}"), value)));
    let mut factors = Vec::new();
    scaling(config, arch, &mut metadata, &mut factors).map_err(refused)?;
    metadata.extend(match folder::weights_of(text)? {
        // A tokenizer from a GGUF file goes back as it was.
        Some(file) => vocabulary::copied(&Gguf::open(&file)?),
        None => vocabulary::of_directory(text, config.vocab_size)?,
    });
    let heads = [config.num_attention_heads, config.num_key_value_heads];
    let weights = model.weights();
    let mut planned: Vec<Planned> =
        factors.iter().map(|(name, values)| Planned::new((*name).to_owned(), vec![values.len()], Kind::F32)).collect();
    for NamedWeight { name, shape, .. } in &weights {
        let ours = names::to_file(arch, name).ok_or_else(|| refused(format!("{name} has no name in GGUF")))?;
        let kind = kind.kind(config, arch, &ours);
        planned.push(Planned::new(ours, shape.clone(), kind));
    }
    let without = without_place(config, arch, planned.iter().map(|tensor| tensor.name.as_str()));
    if !without.is_empty() {
        return Err(refused(format!("llama.cpp runs no {arch} with {}", without.join("; nor with "))));
    }
    let written = write(path, &metadata, &planned, |i| match i.checked_sub(factors.len()) {
        None => factors[i].1.clone(),
        Some(i) => {
            let NamedWeight { name, shape, .. } = &weights[i];
            let values = weights[i].read().iter::<f32>().collect();
            names::done(arch, name, values, shape.first().copied().unwrap_or(1), heads)
        }
    });
    written?;
    let lost = lost(config, path)?;
    if lost.is_empty() {
        return Ok(passed_over(config, arch));
    }
    // A file that computes something else is no use.
    let _ = std::fs::remove_file(path);
    Err(refused(format!("llama.cpp does not know what this {} has: {}", config.model_type, lost.join("; "))))
}

/// Sizes and switches.
fn shape(config: &LlamaConfig) -> Vec<(&'static str, Value)> {
    let size = |n: usize| Value::Unsigned(n as u64);
    let decoder = &config.decoder;
    let mut all = vec![
        ("vocab_size", size(config.vocab_size)),
        ("context_length", size(config.max_position_embeddings)),
        ("embedding_length", size(config.hidden_size)),
        ("block_count", size(config.num_hidden_layers)),
        ("feed_forward_length", size(config.intermediate_size)),
        ("attention.head_count", size(config.num_attention_heads)),
        ("attention.head_count_kv", size(config.num_key_value_heads)),
        ("attention.key_length", size(config.head_dim)),
        ("attention.value_length", size(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", Value::Float(config.rms_norm_eps)),
        ("rope.freq_base", Value::Float(config.rope.theta)),
        ("rope.dimension_count", size(decoder.rotary_dim)),
    ];
    all.extend(decoder.window.map(|window| ("attention.sliding_window", size(window))));
    if config.model_type.starts_with("gemma") {
        let period = decoder.window.and_then(|_| period(config));
        all.extend(period.map(|period| ("attention.sliding_window_pattern", size(period))));
        all.extend(decoder.local_rope.as_ref().map(|rope| ("rope.freq_base_swa", Value::Float(rope.theta))));
    }
    let float = |key, value: Option<f64>| value.map(|value| (key, Value::Float(value)));
    all.extend(float("attn_logit_softcapping", decoder.attention_softcap));
    all.extend(float("final_logit_softcapping", decoder.logit_softcap));
    if config.model_type == "granite" {
        all.extend(float("embedding_scale", Some(decoder.embedding_scale.map_or(1.0, |scale| scale.factor))));
        all.extend(float("attention.scale", decoder.attention_scale));
        all.extend(float("residual_scale", Some(decoder.residual_scale.unwrap_or(1.0))));
        all.extend(float("logit_scale", Some(decoder.logit_divisor.unwrap_or(1.0))));
    }
    all
}

/// After how many layers the pattern of windows begins again, if only the last of them has none: what a file can say.
fn period(config: &LlamaConfig) -> Option<usize> {
    let layers = &config.decoder.layers;
    let fits =
        |period: usize| layers.iter().enumerate().all(|(layer, kind)| kind.windowed == (layer % period < period - 1));
    (1..=layers.len() + 1).find(|period| fits(*period))
}

type Factors = Vec<(&'static str, Vec<f32>)>;

/// Scaling of the rotary embedding, in keys or in tensors of divisors.
fn scaling(
    config: &LlamaConfig,
    arch: &str,
    metadata: &mut Vec<(String, Value)>,
    factors: &mut Factors,
) -> Result<(), String> {
    let mut put = |key: &str, value: Value| metadata.push((format!("{arch}.rope.scaling.{key}"), value));
    let single = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<_>>();
    match &config.rope.scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => {
            put("type", Value::Text("linear".into()));
            put("factor", Value::Float(*factor));
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings: original, .. } => {
            put("type", Value::Text("yarn".into()));
            put("factor", Value::Float(*factor));
            put("original_context_length", Value::Unsigned(*original as u64));
        }
        RopeScaling::Llama3 { .. } => {
            // As divisors, which is how llama.cpp has them.
            let plain = crate::config::RopeConfig { scaling: RopeScaling::Default, ..config.rope.clone() };
            let dims = config.decoder.rotary_dim;
            let pairs = plain.inv_freq(dims).into_iter().zip(config.rope.inv_freq(dims));
            factors.push(("rope_freqs.weight", pairs.map(|(plain, scaled)| (plain / scaled) as f32).collect()));
        }
        RopeScaling::LongRope { short_factor, long_factor, .. } if short_factor == long_factor => {
            factors.push(("rope_freqs.weight", single(short_factor)));
        }
        RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings: original, .. } => {
            put("original_context_length", Value::Unsigned(*original as u64));
            put("attn_factor", Value::Float(config.rope.attention_factor(config.max_position_embeddings)));
            factors.push(("rope_factors_long.weight", single(long_factor)));
            factors.push(("rope_factors_short.weight", single(short_factor)));
        }
        RopeScaling::Dynamic { .. } => return Err("llama.cpp has no `dynamic` scaling of the rotary embedding".into()),
    }
    Ok(())
}
