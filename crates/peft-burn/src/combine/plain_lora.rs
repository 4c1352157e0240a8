//! Adapters that hold a part of the base (PiSSA, OLoRA) as plain LoRA, which any base takes.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::config::InitLoraWeights;
use crate::error::Result;
use crate::layers::linear::PeftLinear;
use crate::low_rank::LowRank;
use crate::methods::{LoraConfig, PeftConfig};
use crate::model::{PeftModel, file_key};

/// The contents of the files of the adapter `name` (`contents`), as plain LoRA where it keeps a part of the base: else as
/// it is.
///
/// As PEFT's `path_initial_model_for_weight_conversion`: with W = R + s·B₀·A₀ and what was learned R + s·B·A, the update of W
/// is s·(B·A − B₀·A₀), of rank 2r. B₀·A₀ is told from W − R, which the model has, so that nothing is drawn or decomposed a
/// second time.
///
/// # Errors
/// A name that is not attached.
pub(crate) fn as_plain_lora<M: PeftModel>(
    model: &M,
    name: &str,
    contents: (PeftConfig, BTreeMap<String, TensorData>),
) -> Result<(PeftConfig, BTreeMap<String, TensorData>)> {
    let (config, mut tensors) = contents;
    let PeftConfig::Lora(lora) = config else { return Ok((config, tensors)) };
    if !lora.init_lora_weights.changes_base_weight() {
        return Ok((lora.into(), tensors));
    }
    let adapted = model.adapted_modules(name)?.to_vec();
    for (path, layer) in model.layers().into_iter().filter(|(path, _)| adapted.contains(path)) {
        let r = lora.rank_for(&path);
        let taken = layer.linear().and_then(|linear| taken_out(linear, name, r, lora.scaling_for(&path)));
        let [in_name, out_name] = match layer.linear() {
            Some(_) => ["lora_A.weight", "lora_B.weight"],
            None => ["lora_embedding_A", "lora_embedding_B"],
        };
        for (suffix, axis) in [(in_name, 0), (out_name, 1)] {
            let Some(own) = tensors.get_mut(&file_key(&path, suffix)) else { continue };
            let tensor = host(own.clone());
            let shape = tensor.dims();
            let more = match &taken {
                Some(update) if axis == 0 => host(update.a.to_data()),
                Some(update) => host(update.b.to_data()).neg(),
                // Nothing was taken out here: the added rank does nothing.
                None => Tensor::zeros(shape, &Device::flex()),
            };
            *own = Tensor::cat(vec![tensor, more], axis).into_data();
        }
    }
    Ok((doubled(lora).into(), tensors))
}

/// The update of W that `own`, an adapter on the residual R, comes to: s·(B·A − B₀·A₀).
pub(super) fn on_the_base(linear: &PeftLinear, name: &str, own: LowRank) -> LowRank {
    match taken_out(linear, name, own.rank(), own.scaling) {
        None => own,
        Some(LowRank { a, b, .. }) => {
            LowRank::new(Tensor::cat(vec![own.a, a], 0), Tensor::cat(vec![own.b, b.neg()], 1), own.scaling)
        }
    }
}

/// B₀ and A₀ of W − R = s·B₀·A₀. `None` where the layer's adapter holds no part of the base.
fn taken_out(linear: &PeftLinear, name: &str, r: usize, scaling: f64) -> Option<LowRank> {
    let adapter = linear.adapters().get(name)?;
    adapter.method.as_ref()?;
    let residual = adapter.weight.as_ref()?.val().detach().inner().cast(DType::F32);
    let taken = linear.original_weight().dense().detach().inner().cast(DType::F32) - residual;
    let LowRank { a, b, .. } = LowRank::leading(taken, r).at_rank(r);
    Some(LowRank { a, b: b.div_scalar(scaling), scaling })
}

/// The configuration with all ranks doubled, and each module's scaling as it was.
fn doubled(lora: LoraConfig) -> LoraConfig {
    let factor = if lora.use_rslora { 2.0_f64.sqrt() } else { 2.0 };
    LoraConfig {
        r: 2 * lora.r,
        lora_alpha: lora.lora_alpha * factor,
        rank_pattern: lora.rank_pattern.iter().map(|(pattern, rank)| (pattern, 2 * rank)).collect(),
        alpha_pattern: lora.alpha_pattern.iter().map(|(pattern, alpha)| (pattern, alpha * factor)).collect(),
        init_lora_weights: InitLoraWeights::Default,
        ..lora
    }
}

fn host(data: TensorData) -> Tensor<2> {
    Tensor::from_data(data.convert_dtype(DType::F32), (&Device::flex(), DType::F32))
}
