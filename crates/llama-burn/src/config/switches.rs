//! Switches that several families read alike: biases, windows, and layers without a rotary embedding.

use super::LlamaConfig;
use super::decoder::{EmbeddingScale, LayerKind, LayerRope};
use super::keys::Keys;

/// Biases that keys turn on.
pub(super) fn biases(keys: &mut Keys<'_>, config: &mut LlamaConfig, of_mlp: bool) {
    config.attention_bias = keys.flag("attention_bias", false);
    config.mlp_bias = of_mlp && keys.flag("mlp_bias", false);
}

/// The common parts of all Gemmas.
pub(super) fn gemma(keys: &mut Keys<'_>, config: &mut LlamaConfig) {
    config.attention_bias = keys.flag("attention_bias", false);
    config.decoder.norm_offset = true;
    let factor = (config.hidden_size as f64).sqrt();
    config.decoder.embedding_scale = Some(EmbeddingScale { factor, rounded: true });
    let causal = |value: &serde_json::Value| value.as_bool() == Some(false);
    keys.require("use_bidirectional_attention", causal, "only causal attention is supported");
}

pub(super) fn every_layer_windowed(config: &mut LlamaConfig) {
    let windowed = config.decoder.window.is_some();
    config.decoder.layers.iter_mut().for_each(|layer| layer.windowed = windowed);
}

/// Qwen's: windows where they are turned on, from layer `max_window_layers` on.
pub(super) fn late_windows(keys: &mut Keys<'_>, config: &mut LlamaConfig) {
    if keys.flag("use_sliding_window", false) {
        config.decoder.window = keys.size_or_none("sliding_window", Some(4096));
    }
    let (first, any) = (keys.get("max_window_layers").and_then(|v| v.as_u64()), config.decoder.window.is_some());
    let first = first.unwrap_or(28) as usize;
    windows(keys, config, |layer| any && layer >= first);
}

pub(super) fn smollm3(keys: &mut Keys<'_>, config: &mut LlamaConfig) {
    biases(keys, config, true);
    let (n, interval) = (config.decoder.layers.len(), keys.size("no_rope_layer_interval", Some(4)));
    let listed = keys.get("no_rope_layers").map(|value| {
        let flag = |v: &serde_json::Value| v.as_u64().filter(|&flag| flag < 2).map(|flag| flag == 1);
        let list: Option<Vec<bool>> = value.as_array().and_then(|list| list.iter().map(flag).collect());
        (list.filter(|list| list.len() >= n), value)
    });
    let turns = match listed {
        Some((Some(list), _)) => list,
        Some((None, value)) => {
            keys.problem(
                "no_rope_layers",
                format_args!("must be {n} numbers, 1 for a layer with RoPE and 0 for one without, but is {value}"),
            );
            vec![true; n]
        }
        None => (0..n).map(|layer| !(layer + 1).is_multiple_of(interval)).collect(),
    };
    let used = keys.flag("use_sliding_window", false);
    config.decoder.window = keys.size_or_none("sliding_window", None);
    let any = used && config.decoder.window.is_some();
    windows(keys, config, |layer| any && !turns[layer]);
    for (layer, turns) in config.decoder.layers.iter_mut().zip(turns) {
        layer.rope = if turns { LayerRope::Main } else { LayerRope::None };
    }
}

/// Which layers are windowed: as `layer_types` says, or where `by_default` says so.
pub(super) fn windows(keys: &mut Keys<'_>, config: &mut LlamaConfig, by_default: impl Fn(usize) -> bool) {
    let layers = config.decoder.layers.len();
    let windowed = match keys.get("layer_types") {
        None => (0..layers).map(by_default).collect(),
        Some(value) => {
            let kind = |v: &serde_json::Value| match v.as_str() {
                Some("sliding_attention") => Some(true),
                Some("full_attention") => Some(false),
                _ => None,
            };
            let list: Option<Vec<bool>> = value.as_array().and_then(|list| list.iter().map(kind).collect());
            list.filter(|list| list.len() == layers).unwrap_or_else(|| {
                keys.problem(
                    "layer_types",
                    format_args!("must be {layers} of \"full_attention\" and \"sliding_attention\", but is {value}"),
                );
                vec![false; layers]
            })
        }
    };
    let any = windowed.contains(&true);
    if any && config.decoder.window.is_none() {
        keys.problem("sliding_window", "is missing, and some layers have sliding attention");
    }
    for (layer, windowed) in config.decoder.layers.iter_mut().zip(windowed) {
        *layer = LayerKind { windowed, ..*layer };
    }
    config.decoder.window = config.decoder.window.filter(|_| any);
}
