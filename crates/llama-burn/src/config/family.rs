//! The families of models that load, a row each: what `config.json` calls them, what it leaves out, and how their decoder
//! differs from Llama's. All of it is Transformers'.

use super::decoder::{EmbeddingScale, Gate, LayerRope, Norms, QkNorm};
use super::keys::Keys;
use super::switches::{biases, every_layer_windowed, gemma, late_windows, smollm3, windows};
use super::{LlamaConfig, rope_keys};

/// A family.
pub(super) struct Family {
    /// Its `model_type`.
    pub model_type: &'static str,
    /// The name in `architectures`.
    pub class: &'static str,
    /// The meaning of absent keys.
    pub defaults: Defaults,
    /// The key of the activation, its values, and what they mean.
    pub activation: (&'static str, &'static [&'static str], Gate),
    /// Keys of its own, which are written as they were read.
    pub keys: &'static [&'static str],
    /// Reads its switches.
    pub switches: fn(&mut Keys<'_>, &mut LlamaConfig),
}

/// The values that Transformers takes for absent keys.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    /// As many as query heads, if `None`.
    pub kv_heads: Option<usize>,
    /// The width over the heads, if `None`.
    pub head_dim: Option<usize>,
    pub context: usize,
    pub eps: f64,
    pub theta: f64,
    pub tied: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

const LLAMA: Defaults = Defaults {
    kv_heads: None,
    head_dim: None,
    context: 2048,
    eps: 1e-6,
    theta: 10_000.0,
    tied: false,
    bos: Some(1),
    eos: Some(2),
    pad: None,
};
const QWEN: Defaults = Defaults { kv_heads: Some(32), context: 32_768, bos: None, eos: None, ..LLAMA };
const GEMMA: Defaults = Defaults {
    kv_heads: Some(4),
    head_dim: Some(256),
    context: 8192,
    tied: true,
    bos: Some(2),
    eos: Some(1),
    pad: Some(0),
    ..LLAMA
};

const SILU: (&str, &[&str], Gate) = ("hidden_act", &["silu", "swish"], Gate::Silu);
const GELU: (&str, &[&str], Gate) = ("hidden_activation", &["gelu_pytorch_tanh"], Gate::GeluTanh);

/// All of them.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        class: "LlamaForCausalLM",
        defaults: LLAMA,
        activation: SILU,
        keys: &[],
        switches: |keys, config| biases(keys, config, true),
    },
    Family {
        model_type: "mistral",
        class: "MistralForCausalLM",
        defaults: Defaults { kv_heads: Some(8), context: 131_072, ..LLAMA },
        activation: SILU,
        keys: &["sliding_window"],
        switches: |keys, config| {
            config.decoder.window = keys.size_or_none("sliding_window", Some(4096));
            every_layer_windowed(config);
        },
    },
    Family {
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        defaults: QWEN,
        activation: SILU,
        keys: &["use_sliding_window", "sliding_window", "max_window_layers", "layer_types"],
        switches: |keys, config| {
            config.decoder.qkv_bias = true;
            late_windows(keys, config);
        },
    },
    Family {
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        defaults: Defaults { head_dim: Some(128), ..QWEN },
        activation: SILU,
        keys: &["use_sliding_window", "sliding_window", "max_window_layers", "layer_types"],
        switches: |keys, config| {
            biases(keys, config, false);
            config.decoder.qk_norm = Some(QkNorm::Head);
            late_windows(keys, config);
        },
    },
    Family {
        model_type: "gemma",
        class: "GemmaForCausalLM",
        defaults: Defaults { kv_heads: Some(16), ..GEMMA },
        // The first releases say "gelu" and mean its approximation.
        activation: ("hidden_act", &["gelu_pytorch_tanh", "gelu"], Gate::GeluTanh),
        keys: &[],
        switches: gemma,
    },
    Family {
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        defaults: GEMMA,
        activation: GELU,
        keys: &[
            "query_pre_attn_scalar",
            "sliding_window",
            "layer_types",
            "final_logit_softcapping",
            "attn_logit_softcapping",
        ],
        switches: |keys, config| {
            gemma(keys, config);
            config.decoder.norms = Norms::Both;
            config.decoder.attention_scale = Some(keys.positive("query_pre_attn_scalar", Some(256.0)).powf(-0.5));
            config.decoder.attention_softcap = keys.positive_or_none("attn_logit_softcapping", Some(50.0));
            config.decoder.logit_softcap = keys.positive_or_none("final_logit_softcapping", Some(30.0));
            config.decoder.window = keys.size_or_none("sliding_window", Some(4096));
            windows(keys, config, |layer| !(layer + 1).is_multiple_of(2));
        },
    },
    Family {
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        defaults: Defaults { context: 131_072, theta: 1_000_000.0, ..GEMMA },
        activation: GELU,
        keys: &[
            "query_pre_attn_scalar",
            "sliding_window",
            "sliding_window_pattern",
            "_sliding_window_pattern",
            "layer_types",
            "final_logit_softcapping",
        ],
        switches: |keys, config| {
            gemma(keys, config);
            config.decoder.norms = Norms::Both;
            config.decoder.qk_norm = Some(QkNorm::Head);
            config.decoder.attention_scale = Some(keys.positive("query_pre_attn_scalar", Some(256.0)).powf(-0.5));
            config.decoder.logit_softcap = keys.positive_or_none("final_logit_softcapping", None);
            config.decoder.window = keys.size_or_none("sliding_window", Some(4096));
            let pattern = keys.size("sliding_window_pattern", Some(6));
            windows(keys, config, |layer| !(layer + 1).is_multiple_of(pattern));
            for layer in &mut config.decoder.layers {
                layer.rope = if layer.windowed { LayerRope::Local } else { LayerRope::Main };
            }
        },
    },
    Family {
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        defaults: Defaults { context: 4096, eps: 1e-5, eos: Some(32_000), pad: Some(32_000), ..LLAMA },
        activation: SILU,
        keys: &["sliding_window", "original_max_position_embeddings", "resid_pdrop", "embd_pdrop"],
        switches: |keys, config| {
            config.decoder.fused = true;
            config.decoder.window = keys.size_or_none("sliding_window", None);
            every_layer_windowed(config);
            config.decoder.rotary_dim = rope_keys::rotary_dim(keys, config.head_dim);
            let none = |value: &serde_json::Value| value.as_f64() == Some(0.0);
            keys.require("resid_pdrop", none, "dropout of the residual stream is not supported; set it to 0");
        },
    },
    Family {
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        defaults: Defaults {
            kv_heads: Some(4),
            context: 32_768,
            theta: 2_000_000.0,
            tied: true,
            bos: Some(128_000),
            eos: Some(128_001),
            pad: Some(128_004),
            ..LLAMA
        },
        activation: SILU,
        keys: &["use_sliding_window", "sliding_window", "no_rope_layers", "no_rope_layer_interval", "layer_types"],
        switches: smollm3,
    },
    Family {
        model_type: "olmo2",
        class: "Olmo2ForCausalLM",
        defaults: Defaults { eps: 1e-5, bos: None, eos: Some(50_279), pad: Some(1), ..LLAMA },
        activation: SILU,
        keys: &[],
        switches: |keys, config| {
            biases(keys, config, false);
            config.decoder.norms = Norms::Post;
            config.decoder.qk_norm = Some(QkNorm::Full);
        },
    },
    Family {
        model_type: "granite",
        class: "GraniteForCausalLM",
        defaults: LLAMA,
        activation: SILU,
        keys: &["embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"],
        switches: |keys, config| {
            biases(keys, config, true);
            let scale = |keys: &mut Keys<'_>, key| Some(keys.positive(key, Some(1.0))).filter(|&scale| scale != 1.0);
            let factor = scale(keys, "embedding_multiplier");
            config.decoder.embedding_scale = factor.map(|factor| EmbeddingScale { factor, rounded: false });
            config.decoder.attention_scale = Some(keys.positive("attention_multiplier", Some(1.0)));
            config.decoder.residual_scale = scale(keys, "residual_multiplier");
            config.decoder.logit_divisor = scale(keys, "logits_scaling");
        },
    },
];

/// The family of a `model_type`.
pub(super) fn family(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_type == model_type)
}

/// The names of the supported families.
pub(super) fn supported() -> String {
    let row = |family: &Family| format!("{} (model_type \"{}\")", family.class, family.model_type);
    FAMILIES.iter().map(row).collect::<Vec<_>>().join(", ")
}
