//! The adapter methods on one layer, a folder each, and the one enum that names them all.

pub(crate) mod adalora;
mod dora;
pub(crate) mod dropout;
mod ia3;
pub(crate) mod lora;
pub(crate) mod vera;

use burn::module::Module;
use burn::tensor::{DType, Tensor};

pub use adalora::{AdaLora, AdaLoraConfig, Importance};
pub use dora::{Dora, EmbeddingLora, Magnitude};
pub use ia3::{Ia3, Ia3Config};
pub use lora::{Lora, LoraConfig, LoraSpec, TokenIndices};
pub(crate) use vera::PROJECTION_NAMES;
pub use vera::{Vera, VeraConfig, VeraProjection, vera_projection};

use crate::config::PeftConfig;
use crate::error::{PeftError, Result};
use crate::layers::embedding::EmbeddingAdapter;
use crate::low_rank::LowRank;
use crate::param::{ParamMut, ParamRef};
use crate::random::TensorRng;

/// What an adapter's layers are initialised from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) config: &'a PeftConfig,
    pub(crate) seed: u64,
    /// Paths of all layers that the adapter adapts.
    pub(crate) adapted: &'a [String],
    /// VeRA's pair.
    pub(crate) projection: Option<&'a VeraProjection>,
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
            if config.use_dora {
                let (dora, residual) = Dora::init(&spec, weight, rng)?;
                return Ok((Method::Dora(dora), residual));
            }
            let (lora, residual) = Lora::init(&spec, weight, rng)?;
            Ok((Method::Lora(lora), residual))
        }
        PeftConfig::Vera(config) => {
            let Some(projection) = context.projection else {
                return Err(PeftError::Unsupported(format!("VeRA on {path}: there is no projection")));
            };
            let start = config.init_weights.then_some(config.d_initial);
            let vera = Vera::init(projection.clone(), weight, start, config.vera_dropout, rng);
            Ok((Method::Vera(vera), None))
        }
        PeftConfig::Ia3(config) => {
            let ia3 = Ia3::init(weight, config.is_feedforward(path), config.init_ia3_weights, rng);
            Ok((Method::Ia3(ia3), None))
        }
        PeftConfig::AdaLora(config) => Ok((Method::AdaLora(AdaLora::init(config, path, weight, rng)), None)),
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
    let (r, scaling) = (config.rank_for(path), config.scaling_for(path));
    let lora = adapted.then(|| EmbeddingAdapter::lora(weight, r, scaling, config.use_dora, rng));
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
    /// Low-rank update of the direction, and learned row norms.
    Dora(Dora),
    /// Low-rank update in triplets, pruned in training.
    AdaLora(AdaLora),
    /// Learned vectors around a random pair that the whole model shares.
    Vera(Vera),
    /// A learned scale of the input or the output.
    Ia3(Ia3),
}

impl Method {
    /// The input of everything that comes before this adapter, the base included, for the layer's input `x`.
    pub(crate) fn scale_input(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Ia3(ia3) => ia3.scale_input(x),
            Self::Lora(_) | Self::Dora(_) | Self::AdaLora(_) | Self::Vera(_) => x,
        }
    }

    /// `x·Wᵀ` with the method's contribution as one operation, where there is one for it; `base` as for [`Self::apply`],
    /// `low` as VeRA's `x·Aᵀ` if it is known. It may be in x's dtype if `rounded`, else it is in f32.
    pub(crate) fn project(
        &self,
        x: &Tensor<2>,
        weight: &Tensor<2>,
        base: &Tensor<2>,
        low: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        match self {
            Self::Lora(lora) => lora.project(x, weight, rounded),
            Self::Dora(dora) => dora.project(x, weight, base, rounded),
            Self::AdaLora(adalora) => adalora.project(x, weight, rounded),
            Self::Vera(vera) => {
                let low = || low.cloned().unwrap_or_else(|| vera.project(x.clone().cast(DType::F32)));
                vera.expand_onto(x, weight, low, rounded)
            }
            Self::Ia3(ia3) => ia3.project(x, weight, rounded),
        }
    }

    /// What `product` (`x·Wᵀ` and what earlier adapters made of it, `[n, out]`) becomes for `x` (`[n, in]`); all in f32.
    /// `base` is the weight that the adapter was made for, `[out, in]`.
    pub(crate) fn apply(&self, product: Tensor<2>, x: Tensor<2>, base: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Lora(lora) => product + lora.update(x),
            Self::Dora(dora) => dora.apply(product, x, base),
            Self::AdaLora(adalora) => adalora.apply(product, x),
            Self::Vera(vera) => product + vera.update(x),
            Self::Ia3(ia3) => ia3.scale_output(product),
        }
    }

    /// What the bias `[out]` (f32) becomes; `None` where the layer has none and needs none.
    pub(crate) fn apply_bias(&self, bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
        match self {
            Self::Lora(lora) => match (bias, lora.delta_bias()) {
                (Some(bias), Some(delta)) => Some(bias + delta),
                (bias, delta) => bias.or(delta),
            },
            Self::Ia3(ia3) => bias.map(|b| ia3.scale_bias(b)),
            Self::Dora(_) | Self::AdaLora(_) | Self::Vera(_) => bias,
        }
    }

    /// What the weight `[out, in]` (f32) becomes when the adapter is folded in; `base` as for [`Self::apply`].
    pub(crate) fn merge(&self, weight: Tensor<2>, base: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Lora(lora) => lora.merge(weight),
            Self::Dora(dora) => dora.merge(weight, base),
            Self::AdaLora(adalora) => adalora.merge(weight),
            Self::Vera(vera) => weight + vera.delta(),
            Self::Ia3(ia3) => ia3.merge(weight),
        }
    }

    /// The update, if it is one of low rank and of the weight alone; of DoRA, that of the direction.
    pub(crate) fn update(&self) -> Option<LowRank> {
        match self {
            Self::Lora(lora) if lora.bias_b.is_some() => None,
            Self::Lora(lora) => Some(lora.low_rank_update()),
            Self::Dora(dora) => Some(dora.lora().low_rank_update()),
            Self::AdaLora(adalora) => Some(adalora.low_rank()),
            Self::Vera(vera) => Some(vera.low_rank()),
            Self::Ia3(_) => None,
        }
    }

    /// Multiplies the scaling; `None` where the method has none.
    pub(crate) fn rescale(&mut self, multiplier: f64) -> Option<()> {
        match self {
            Self::Lora(lora) => lora.scaling *= multiplier,
            Self::Dora(dora) => dora.rescale(multiplier),
            Self::AdaLora(adalora) => adalora.scaling *= multiplier,
            Self::Vera(_) | Self::Ia3(_) => return None,
        }
        Some(())
    }

    /// To be called before the base weight is written into.
    pub(crate) fn forget_base(&mut self) {
        if let Self::Dora(dora) = self {
            dora.forget_base();
        }
    }

    /// To be called where Burn's mappers reach the base weight, so that it may change with any of them.
    pub(crate) fn base_is_visible(&mut self) {
        if let Self::Dora(dora) = self {
            dora.base_is_visible();
        }
    }

    /// To be called when the adapter is about to be trained.
    pub(crate) fn prepare_training(&mut self) {
        if let Self::AdaLora(adalora) = self {
            adalora.track();
        }
    }

    /// Parameters by the names that PEFT gives them on disk, after the module's path.
    pub fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        match self {
            Self::Lora(lora) => lora.params(),
            Self::Dora(dora) => dora.params(),
            Self::AdaLora(adalora) => adalora.params(),
            Self::Vera(vera) => vera.params(),
            Self::Ia3(ia3) => ia3.params(),
        }
    }

    /// As [`Self::params`], to write into.
    pub fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        match self {
            Self::Lora(lora) => lora.params_mut(),
            Self::Dora(dora) => dora.params_mut(),
            Self::AdaLora(adalora) => adalora.params_mut(),
            Self::Vera(vera) => vera.params_mut(),
            Self::Ia3(ia3) => ia3.params_mut(),
        }
    }
}
