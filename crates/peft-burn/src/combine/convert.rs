//! Adapters of other methods made into plain LoRA, for programs that know only that.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};

use super::new_lora::{NewLayer, add_lora};
use super::plain_lora::on_the_base;
use crate::config::{Bias, Patterns, TargetModules};
use crate::error::{Result, Unsupported};
use crate::layers::embedding::PeftEmbedding;
use crate::layers::layer::LayerRef;
use crate::layers::linear::{LinearAdapter, PeftLinear};
use crate::low_rank::LowRank;
use crate::methods::{LoraConfig, Method, PeftConfig};
use crate::model::{PeftModel, file_key};

/// How well a LoRA adapter stands for what it was made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// ‖ΔW − B·A‖ / ‖ΔW‖ by module path, 0 where the conversion is exact.
    pub errors: BTreeMap<String, f64>,
}

impl Conversion {
    /// The largest of the errors.
    pub fn largest_error(&self) -> f64 {
        self.errors.values().fold(0.0, |largest, error| largest.max(*error))
    }
}

/// Adds the LoRA adapter `new_name`, which does what `name` does, or comes nearest to it at `rank`. It is not activated.
///
/// VeRA, AdaLoRA and LoRA are low-rank updates and are converted exactly, at their own ranks (PiSSA and OLoRA at twice that),
/// unless `rank` is below those. DoRA and IA3 change the whole weight: their updates are decomposed and cut to `rank`. Trained modules, biases
/// and tokens are taken over.
///
/// # Errors
/// A name that is not attached or is taken, a missing `rank` where one is needed, and an IA3 adapter that scales the
/// biases of some layers while others have none to take the change: before anything changes.
pub fn convert_to_lora<M: PeftModel>(
    model: &mut M,
    name: &str,
    new_name: &str,
    rank: Option<usize>,
) -> Result<Conversion> {
    if rank == Some(0) {
        return Err(Unsupported::ZeroRank { operation: "conversion" }.into());
    }
    let old = model.adapter_config(name)?.clone();
    let adapted = model.adapted_modules(name)?.to_vec();
    let mut layers = BTreeMap::new();
    let mut errors = BTreeMap::new();
    for (path, layer) in model.layers().into_iter().filter(|(path, _)| adapted.contains(path)) {
        let found = match layer {
            LayerRef::Linear(linear) => linear_update(linear, name, &path, rank)?,
            LayerRef::Embedding(embedding) => embedding_update(embedding, name, &path, rank)?,
            LayerRef::Norm(_) => None,
        };
        if let Some((layer, error)) = found {
            errors.insert(path.clone(), error);
            layers.insert(path, layer);
        }
    }
    let changes = |bias: &Tensor<1>| bias.clone().not_equal_elem(0.0).any().into_scalar::<bool>();
    let lora_bias = layers.values().filter_map(|layer: &NewLayer| layer.bias.as_ref()).any(changes);
    let unbiased: Vec<_> = layers.iter().filter(|(_, l)| l.bias.is_none()).map(|(path, _)| path.clone()).collect();
    if lora_bias && !unbiased.is_empty() {
        return Err(Unsupported::UnbiasedLayers { adapter: name.to_owned(), modules: unbiased }.into());
    }
    let copied = carried_over(model, name)?;
    let mut config = config_for(&old, &layers, lora_bias);
    // Weights that were saved beside the adapter and are only used.
    let brought = model.layers().into_iter().filter(|(_, layer)| layer.never_trained(name).contains(&"weight"));
    let brought: Vec<_> = brought.map(|(path, _)| path).collect();
    if !brought.is_empty() {
        config.modules_to_save.get_or_insert_default().extend(brought);
    }
    add_lora(model, new_name, config, layers, copied)?;
    Ok(Conversion { errors })
}

/// The parameters trained beside the updates, by their names in a file.
fn carried_over<M: PeftModel>(model: &M, name: &str) -> Result<BTreeMap<String, TensorData>> {
    let mut own: Vec<String> = Vec::new();
    for (path, layer) in model.layers() {
        if let Some(method) = layer.linear().and_then(|l| l.adapters().get(name)?.method.as_ref()) {
            own.extend(method.params().into_iter().map(|(suffix, _)| file_key(&path, suffix)));
        }
    }
    let params = model.adapter_params(name)?.into_iter();
    Ok(params.filter(|(key, _)| !own.contains(key)).map(|(key, param)| (key, param.to_data())).collect())
}

/// The update of a linear layer, and its relative error. `None` where the adapter does nothing.
fn linear_update(linear: &PeftLinear, name: &str, path: &str, rank: Option<usize>) -> Result<Option<(NewLayer, f64)>> {
    let Some(adapter) = linear.adapters().get(name) else { return Ok(None) };
    let Some(method) = &adapter.method else { return Ok(None) };
    if method.is_spent() {
        return Ok(None);
    }
    let bias = bias_change(linear, adapter, method);
    let update = method.update().filter(|update| update.magnitude.is_none()).map(|update| update.low_rank);
    let update = update.map(|update| on_the_base(linear, name, update));
    let own_rank = update.as_ref().map(LowRank::rank);
    let exact = update.filter(|update| rank.is_none_or(|rank| update.rank() <= rank));
    let (update, error) = match exact {
        Some(update) => (update, 0.0),
        None => {
            let base = linear.original_weight().dense().detach().inner().cast(DType::F32);
            let merged = method
                .merge(linear.weight_made_for(adapter).dense().cast(DType::F32), &linear.weight_made_for(adapter));
            nearest(merged.detach().inner() - base, rank.or(own_rank), path)?
        }
    };
    Ok(Some((NewLayer { update, magnitude: None, bias }, error)))
}

/// The summand of the method to the bias that the layer has under this adapter. `None` where it has none.
fn bias_change(linear: &PeftLinear, adapter: &LinearAdapter, method: &Method) -> Option<Tensor<1>> {
    let before = linear.bias_made_for(adapter).map(|b| b.detach().inner().cast(DType::F32));
    let after = method.apply_bias(before.clone())?.detach().inner();
    Some(match before {
        Some(before) => after - before,
        None => after,
    })
}

/// The update of an embedding.
fn embedding_update(
    embedding: &PeftEmbedding,
    name: &str,
    path: &str,
    rank: Option<usize>,
) -> Result<Option<(NewLayer, f64)>> {
    let Some(lora) = embedding.adapters().get(name).and_then(|a| a.lora.as_ref()) else { return Ok(None) };
    let own = lora.low_rank();
    let (update, error) = if lora.norms().is_none() && rank.is_none_or(|rank| own.rank() <= rank) {
        (own, 0.0)
    } else {
        let base = embedding.original().dense().detach().inner().cast(DType::F32);
        let merged = lora.merge(base.clone(), &base.clone().into()).detach().inner();
        let rank = if lora.norms().is_none() { rank.or(Some(own.rank())) } else { rank };
        nearest((merged - base).transpose(), rank, path)?
    };
    Ok(Some((NewLayer { update, magnitude: None, bias: None }, error)))
}

/// The nearest update of `rank`, and how far it is.
fn nearest(delta: Tensor<2>, rank: Option<usize>, path: &str) -> Result<(LowRank, f64)> {
    let Some(rank) = rank else {
        return Err(Unsupported::NoExactConversion { path: path.to_owned() }.into());
    };
    let update = LowRank::nearest(delta.clone(), rank);
    // The squares of large and small numbers leave f32's range.
    let norm = |t: Tensor<2>| t.into_data().iter::<f64>().map(|v| v * v).sum::<f64>().sqrt();
    let (missing, whole) = (norm(delta.clone() - update.delta()), norm(delta));
    Ok((update, if whole > 0.0 { missing / whole } else { 0.0 }))
}

fn config_for(old: &PeftConfig, layers: &BTreeMap<String, NewLayer>, lora_bias: bool) -> LoraConfig {
    let ranks: Vec<_> = layers.iter().map(|(path, layer)| (path, layer.update.rank())).collect();
    let r = ranks.iter().map(|(_, r)| *r).max().unwrap_or(1);
    let others = || ranks.iter().filter(|(_, rank)| *rank != r);
    let tokens = old.trainable_tokens().cloned();
    LoraConfig {
        r,
        lora_alpha: r as f64,
        rank_pattern: others().map(|(path, rank)| ((*path).clone(), *rank)).collect(),
        alpha_pattern: others().map(|(path, rank)| ((*path).clone(), *rank as f64)).collect::<Patterns<f64>>(),
        target_modules: TargetModules::list(layers.keys()),
        bias: if old.bias() == Bias::VeraOnly { Bias::LoraOnly } else { old.bias() },
        lora_bias,
        modules_to_save: Some(old.modules_to_save().to_vec()).filter(|names| !names.is_empty()),
        trainable_token_indices: tokens,
        task_type: old.task_type(),
        base_model_name_or_path: old.base_model_name_or_path().map(Into::into),
        ..LoraConfig::default()
    }
}
