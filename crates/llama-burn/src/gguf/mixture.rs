//! Which tensor of a quantised file has which type: llama.cpp's mixtures (`llama_tensor_get_type` of its `llama-quant.cpp`).

use super::dequantise::Kind;
use crate::config::LlamaConfig;

/// The type that llama.cpp gives the tensor `name`, in its own spelling as `arch` is, of a `Q4_K_M` file. It may not fit the
/// tensor's shape.
pub(super) fn q4_k_m(config: &LlamaConfig, arch: &str, name: &str) -> Kind {
    let layers = config.num_hidden_layers;
    let more = |layer: usize| layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let layer = layer.and_then(|(number, module)| Some((number.parse::<usize>().ok()?, module)));
    match layer {
        Some((layer, "attn_v.weight" | "attn_qkv.weight" | "ffn_down.weight")) if more(layer) => Kind::Q6_K,
        Some((_, "attn_v.weight")) if shares_values(config, arch) => Kind::Q5_K,
        Some(_) => Kind::Q4_K,
        None if name == "token_embd.weight" && !config.tie_word_embeddings => Kind::Q4_K,
        None => Kind::Q6_K,
    }
}

/// The models whose values eight heads share each: 70B, as llama.cpp calls what has so many layers.
fn shares_values(config: &LlamaConfig, arch: &str) -> bool {
    let own = config.num_attention_heads == config.num_key_value_heads;
    config.num_hidden_layers == 80 && (arch == "qwen2" || arch == "llama" && !own)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(model_type: &str, layers: usize, tied: bool) -> LlamaConfig {
        let json = format!(
            r#"{{"model_type": "{model_type}", "vocab_size": 24, "hidden_size": 64, "intermediate_size": 20,
            "num_hidden_layers": {layers}, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": {tied}}}"#
        );
        LlamaConfig::from_json(&json, Path::new("config.json")).unwrap()
    }

    /// Layers as llama.cpp's own quantisation of a model of so many had them.
    #[test]
    fn the_first_the_last_and_every_third_layer_have_more_bits() {
        for (layers, expected) in [
            (1, vec![0]),
            (4, vec![2, 3]),
            (30, vec![0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]),
            (32, vec![0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]),
        ] {
            let config = config("llama", layers, true);
            for part in ["attn_v", "ffn_down"] {
                let kind = |layer: usize| q4_k_m(&config, "llama", &format!("blk.{layer}.{part}.weight"));
                let more: Vec<usize> = (0..layers).filter(|layer| kind(*layer) == Kind::Q6_K).collect();
                assert_eq!(more, expected, "{part} of {layers}");
                assert!((0..layers).all(|layer| matches!(kind(layer), Kind::Q6_K | Kind::Q4_K)));
            }
            assert_eq!(q4_k_m(&config, "llama", "blk.0.attn_q.weight"), Kind::Q4_K);
        }
    }

    #[test]
    fn the_head_has_more_bits_and_so_has_an_embedding_that_is_one() {
        let kinds = |tied: bool| {
            ["token_embd", "output"].map(|n| q4_k_m(&config("llama", 2, tied), "llama", &format!("{n}.weight")))
        };
        assert_eq!([kinds(true)[0], kinds(false)[0], kinds(false)[1]], [Kind::Q6_K, Kind::Q4_K, Kind::Q6_K]);
    }

    #[test]
    fn values_that_eight_heads_share_have_five_bits_at_least() {
        let kind = |arch: &str, layers| q4_k_m(&config(arch, layers, false), arch, "blk.10.attn_v.weight");
        assert_eq!([kind("llama", 80), kind("qwen2", 80)], [Kind::Q5_K; 2]);
        assert_eq!([kind("qwen3", 80), kind("llama", 81)], [Kind::Q4_K; 2]);
    }
}
