//! Features of models that llama.cpp, as of its release 0.4.0, does not compute.

use std::path::Path;

use super::reader::Gguf;
use crate::config::{Decoder, LlamaConfig};
use crate::error::Result;

/// The features of a model of the architecture `arch` with tensors of these names that llama.cpp has no place for: it would not
/// load.
pub(super) fn without_place<'a>(config: &LlamaConfig, arch: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut all = Vec::new();
    // The others have biases of q, k and v at most.
    let of_queries = [".attn_q.bias", ".attn_k.bias", ".attn_v.bias", ".attn_qkv.bias"];
    let mut biases = names
        .filter(|name| name.ends_with(".bias") && !["llama", "granite"].contains(&arch))
        .filter(|name| !of_queries.iter().any(|end| name.ends_with(end)));
    if let Some(first) = biases.next() {
        all.push(match biases.count() {
            0 => format!("the bias {first}"),
            more => format!("the bias {first} and {more} more"),
        });
    }
    let widths = config.num_attention_heads * config.head_dim;
    if widths != config.hidden_size && ["qwen2", "phi3", "olmo2"].contains(&arch) {
        all.push(format!("heads that are {widths} wide together beside a hidden_size of {}", config.hidden_size));
    }
    if !config.tie_word_embeddings && ["gemma", "gemma2"].contains(&arch) {
        all.push("a head of its own: the adapter changes the head or the embedding alone".into());
    }
    if config.tie_word_embeddings && arch == "olmo2" {
        all.push("a head that is the embedding".into());
    }
    all
}

/// Keys that llama.cpp has, and does not use.
pub(super) fn passed_over(config: &LlamaConfig, arch: &str) -> Vec<String> {
    let window = config.decoder.window.filter(|window| *window < config.max_position_embeddings);
    let window = window.filter(|_| arch == "llama" || arch == "phi3");
    let note = |window| {
        format!(
            "llama.cpp does not use the sliding window of a {}: on texts of more than {window} tokens it computes something else",
            config.model_type
        )
    };
    window.map(note).into_iter().collect()
}

/// The settings in which the model of the file at `path` differs from `config`: llama.cpp implies them, and no key can say
/// them.
pub(super) fn lost(config: &LlamaConfig, path: &Path) -> Result<Vec<&'static str>> {
    let json = super::config::read(&Gguf::open(path)?)?.config;
    let read = LlamaConfig::from_json(&json.to_string(), path)?;
    let (ours, theirs) = (&config.decoder, &read.decoder);
    let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs(),
        (a, b) => a == b,
    };
    let plain = 1.0 / (config.head_dim as f64).sqrt();
    let scale = |decoder: &Decoder| Some(decoder.attention_scale.unwrap_or(plain));
    let checks = [
        (ours.window == theirs.window, "its sliding window"),
        (ours.layers == theirs.layers, "which of its layers have a window or a rotary embedding"),
        (near(scale(ours), scale(theirs)), "the scale of its attention"),
        (near(ours.attention_softcap, theirs.attention_softcap), "the soft cap of its attention"),
        (near(ours.logit_softcap, theirs.logit_softcap), "the soft cap of its logits"),
        (ours.local_rope == theirs.local_rope, "the rotary embedding of its windowed layers"),
        (ours.rotary_dim == theirs.rotary_dim, "how much of its heads turns"),
        (same_turns(config, &read), "the scaling of its rotary embedding"),
    ];
    Ok(checks.into_iter().filter(|(same, _)| !same).map(|(_, what)| what).collect())
}

/// Whether texts of every length are turned alike.
fn same_turns(ours: &LlamaConfig, theirs: &LlamaConfig) -> bool {
    let of = |config: &LlamaConfig, length: usize| {
        let context = config.max_position_embeddings;
        let stretch = config.rope.stretch(context, length);
        let mut turns = config.rope.stretched(config.decoder.rotary_dim, context, stretch);
        turns.push(config.rope.attention_factor(context));
        turns
    };
    [1, ours.max_position_embeddings]
        .into_iter()
        .all(|length| of(ours, length).iter().zip(of(theirs, length)).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs()))
}
