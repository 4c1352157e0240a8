//! The adapter methods, one file each, and the one enum that names them all.

mod lora;

use burn::module::Module;
use burn::tensor::{Bool, Distribution, Tensor};

pub use lora::{Lora, LoraSpec};

use crate::config::PeftConfig;
use crate::embedding::EmbeddingAdapter;
use crate::error::{PeftError, Result};
use crate::param::{ParamMut, ParamRef};
use crate::random::TensorRng;
use crate::targets::ModuleInfo;

/// What an adapter's layers are initialised from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) config: &'a PeftConfig,
    pub(crate) seed: u64,
    /// Paths of all layers that the adapter adapts.
    pub(crate) adapted: &'a [String],
    pub(crate) modules: &'a [ModuleInfo],
}

/// A new adapter for the linear layer at `path` with `weight` (`[out, in]`), and the residual that takes the weight's
/// place where the initialisation moves a part of it into the adapter.
pub(crate) fn init(context: &Context<'_>, path: &str, weight: &Tensor<2>) -> Result<(Method, Option<Tensor<2>>)> {
    let rng = &mut TensorRng::new(context.seed, path);
    match context.config {
        PeftConfig::Lora(config) => {
            let spec = LoraSpec {
                r: config.rank_for(path),
                scaling: config.scaling_for(path),
                dropout: config.lora_dropout,
                bias: config.lora_bias,
                init: config.init_lora_weights.clone(),
            };
            let (lora, residual) = Lora::init(&spec, weight, rng)?;
            Ok((Method::Lora(lora), residual))
        }
        other => Err(PeftError::Unsupported(format!("{} is not implemented yet", other.peft_type()))),
    }
}

/// A new adapter for the embedding at `path`; `None` where the configuration asks for none.
pub(crate) fn init_embedding(
    context: &Context<'_>,
    path: &str,
    weight: &Tensor<2>,
    adapted: bool,
) -> Result<Option<EmbeddingAdapter>> {
    let PeftConfig::Lora(config) = context.config else {
        return Ok(None);
    };
    let rng = &mut TensorRng::new(context.seed, path);
    let lora = adapted.then(|| EmbeddingAdapter::lora(weight, config.rank_for(path), config.scaling_for(path), rng));
    let tokens = config.trainable_tokens_for(path).to_vec();
    let [vocab, _] = weight.dims();
    if let Some(bad) = tokens.iter().find(|&&t| t >= vocab) {
        let message = format!("trainable_token_indices names token {bad}, and {path} has {vocab}");
        return Err(PeftError::Config { origin: "adapter".into(), problems: vec![message] });
    }
    if tokens.is_empty() {
        return Ok(lora);
    }
    let mut adapter = EmbeddingAdapter::tokens(weight, tokens);
    adapter.lora = lora.and_then(|a| a.lora);
    Ok(Some(adapter))
}

/// An adapter of one linear layer, whatever its method.
#[derive(Module, Debug)]
pub enum Method {
    /// Low-rank update.
    Lora(Lora),
}

impl Method {
    /// Adds the method's contribution for `x` (`[n, in]`) to the base's output `y` (`[n, out]`).
    pub(crate) fn apply(&self, y: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Lora(lora) => y + lora.update(x),
        }
    }

    /// `x·Wᵀ` with the method's contribution as one operation, where there is one for it.
    pub(crate) fn project(&self, x: &Tensor<2>, weight: &Tensor<2>) -> Option<Tensor<2>> {
        match self {
            Self::Lora(lora) => lora.project(x, weight),
        }
    }

    /// The base weight `[out, in]` in f32 with the adapter folded in.
    pub(crate) fn merge(&self, weight: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Lora(lora) => lora.merge(weight),
        }
    }

    /// The base's bias `[out]` in f32 with the adapter folded in; `None` where the layer has none and needs none.
    pub(crate) fn merge_bias(&self, bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
        let delta = match self {
            Self::Lora(lora) => lora.delta_bias(),
        };
        match (bias, delta) {
            (Some(bias), Some(delta)) => Some(bias + delta),
            (bias, delta) => bias.or(delta),
        }
    }

    /// Parameters by the names that PEFT gives them on disk, after the module's path.
    pub fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        match self {
            Self::Lora(lora) => lora.params(),
        }
    }

    /// As [`Self::params`], to write into.
    pub fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        match self {
            Self::Lora(lora) => lora.params_mut(),
        }
    }
}

/// Zeroes each entry with probability `p` and scales the rest by 1/(1−p), in training only.
pub(crate) fn dropout<const D: usize>(x: Tensor<D>, p: f64, training: bool) -> Tensor<D> {
    if p == 0.0 || !training {
        return x;
    }
    let drop: Tensor<D, Bool> = x.random_like(Distribution::Bernoulli(p)).bool();
    x.mask_fill(drop, 0.0).mul_scalar(1.0 / (1.0 - p))
}
