//! How a family's decoder differs from Llama's, switch by switch.

use fused_burn::{Activation, LogitRule, Scores};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::RopeConfig;

/// The differences of a family's decoder from Llama's. The default is Llama's, but for
/// [`rotary_dim`](Self::rotary_dim) and [`layers`](Self::layers), which depend on sizes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decoder {
    /// Whether q, k and v have a bias, whatever `attention_bias` says (Qwen2).
    pub qkv_bias: bool,
    /// Whether q, k and v are one projection, and gate and up another (Phi-3).
    pub fused: bool,
    /// Where a layer's norms are.
    pub norms: Norms,
    /// Whether norms store their gain less one (Gemma).
    pub norm_offset: bool,
    /// The norm of queries and keys before they turn.
    pub qk_norm: Option<QkNorm>,
    /// The function that the gate of the feedforward block goes through.
    pub gate: Gate,
    /// How many values of a head turn by position, from the first on.
    pub rotary_dim: usize,
    /// Rotary embedding of the layers that are [`LayerRope::Local`].
    pub local_rope: Option<RopeConfig>,
    /// How many tokens a query of a windowed layer sees at most, itself among them.
    pub window: Option<usize>,
    /// The differences from layer to layer.
    pub layers: Vec<LayerKind>,
    /// The factor of embeddings.
    pub embedding_scale: Option<EmbeddingScale>,
    /// The factor of attention's scores; else `1/√head_dim`.
    pub attention_scale: Option<f64>,
    /// The soft cap of scores of attention.
    pub attention_softcap: Option<f64>,
    /// The factor of a block's output before it is added to the residual stream.
    pub residual_scale: Option<f64>,
    /// The divisor of logits.
    pub logit_divisor: Option<f64>,
    /// The soft cap of logits.
    pub logit_softcap: Option<f64>,
    /// The keys of `config.json` that the family has beyond Llama's, as they were read.
    pub own_keys: Map<String, Value>,
}

/// Where a layer's norms are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Norms {
    /// Before attention and before the feedforward block.
    #[default]
    Pre,
    /// After each of the two (OLMo 2).
    Post,
    /// Before and after each of the two (Gemma 2).
    Both,
}

/// Which values of queries and keys are normalised together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum QkNorm {
    /// The values of each head (Qwen3, Gemma 3).
    Head,
    /// The values of all heads together (OLMo 2).
    Full,
}

/// The activation of the feedforward block's gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Gate {
    /// SiLU.
    #[default]
    Silu,
    /// GELU by its approximation with tanh.
    GeluTanh,
}

/// The differences from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerKind {
    /// Whether its queries see [`Decoder::window`] tokens only.
    pub windowed: bool,
    /// Which rotary embedding it has.
    pub rope: LayerRope,
}

/// Which rotary embedding a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LayerRope {
    /// None: it knows no positions (SmolLM3).
    None,
    /// The model's.
    Main,
    /// [`Decoder::local_rope`] (Gemma 3).
    Local,
}

/// The factor of embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingScale {
    /// The factor.
    pub factor: f64,
    /// Whether the factor itself is rounded to the weights' dtype (Gemma).
    pub rounded: bool,
}

impl Default for LayerKind {
    fn default() -> Self {
        Self { windowed: false, rope: LayerRope::Main }
    }
}

impl From<Gate> for Activation {
    fn from(gate: Gate) -> Self {
        match gate {
            Gate::Silu => Self::Silu,
            Gate::GeluTanh => Self::GeluTanh,
        }
    }
}

impl Decoder {
    /// The kind of layer number `layer`.
    pub fn layer(&self, layer: usize) -> LayerKind {
        self.layers.get(layer).copied().unwrap_or_default()
    }

    /// The window of layer number `layer`.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| self.layer(layer).windowed)
    }

    /// How scores of attention are made.
    pub(crate) fn scores(&self) -> Scores {
        Scores {
            scale: self.attention_scale.map(|scale| scale as f32),
            softcap: self.attention_softcap.map(|cap| cap as f32),
        }
    }

    /// How the head's product becomes logits.
    pub(crate) fn logit_rule(&self) -> LogitRule {
        LogitRule { divisor: self.logit_divisor.unwrap_or(1.0), softcap: self.logit_softcap }
    }
}
