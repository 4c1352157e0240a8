//! The difference between two models as a LoRA adapter.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};
use fused_burn::Weight;

use super::new_lora::{NewLayer, add_lora};
use crate::config::{Bias, TargetModules, TaskType};
use crate::error::{PeftError, Result, Unsupported};
use crate::layers::layer::LayerRef;
use crate::low_rank::LowRank;
use crate::methods::LoraConfig;
use crate::model::{PeftModel, file_key};
use crate::modules::ModuleKind;

/// Weights up to this many rows or columns are decomposed whole; of larger ones only the leading part is worked out.
const WHOLE: usize = 256;

/// How a model's difference from another became an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Extraction {
    /// ‖ΔW − B·A‖ / ‖ΔW‖ by the path of each module that became a low-rank update.
    pub errors: BTreeMap<String, f64>,
    /// Embeddings, heads and norms that differ, which are kept whole (`modules_to_save`).
    pub whole: Vec<String>,
    /// Whether biases differ, which are kept too (`bias = "all"`).
    pub biases: bool,
}

impl Extraction {
    /// The largest of the errors.
    pub fn largest_error(&self) -> f64 {
        self.errors.values().fold(0.0, |largest, error| largest.max(*error))
    }
}

/// Adds the LoRA adapter `name` to `model`, which makes it compute what `tuned`, a model of the same shape, computes, or comes
/// nearest to it at `rank`: each projection's difference is decomposed (SVD) and cut. Embeddings, heads, norms and biases that
/// differ are taken over as they are. `base` is what the adapter notes as its base model. The adapter is not activated.
///
/// # Errors
/// A rank of 0, models of other shapes (a vocabulary may have another size), and two models that do not differ.
pub fn extract_lora<M: PeftModel>(
    model: &mut M,
    tuned: &M,
    name: &str,
    rank: usize,
    base: Option<&str>,
) -> Result<Extraction> {
    if rank == 0 {
        return Err(Unsupported::ZeroRank { operation: "extraction" }.into());
    }
    check_shapes(model, tuned)?;
    let kinds: BTreeMap<String, ModuleKind> = model.modules().into_iter().map(|m| (m.path, m.kind)).collect();
    let mut layers = BTreeMap::new();
    let mut copied: BTreeMap<String, TensorData> = BTreeMap::new();
    let mut done = Extraction { errors: BTreeMap::new(), whole: Vec::new(), biases: false };
    for ((path, before), (_, after)) in model.layers().into_iter().zip(tuned.layers()) {
        let [old, new] = [before, after].map(values);
        let whole = !matches!((before, kinds.get(&path)), (LayerRef::Linear(_), Some(ModuleKind::Linear) | None));
        if whole && old != new {
            copied.insert(file_key(&path, "weight"), new.convert_dtype(DType::F32));
            done.whole.push(path);
            continue;
        }
        let (LayerRef::Linear(before), LayerRef::Linear(after)) = (before, after) else { continue };
        if old != new {
            let plain = |weight: Weight| weight.dense().detach().inner().cast(DType::F32);
            let delta = plain(after.base().weight.val()) - plain(before.original_weight());
            let update = nearest(delta.clone(), rank);
            done.errors.insert(path.clone(), distance(&delta, &update));
            layers.insert(path.clone(), NewLayer { update, magnitude: None, bias: None });
        }
        if let (Some(old), Some(new)) = (&before.base().bias, &after.base().bias) {
            let new = new.val().into_data();
            done.biases |= old.val().into_data() != new;
            for key in ["bias", "base_layer.bias"] {
                copied.insert(file_key(&path, key), new.clone().convert_dtype(DType::F32));
            }
        }
    }
    if layers.is_empty() && done.whole.is_empty() && !done.biases {
        return Err(Unsupported::SameWeights.into());
    }
    if layers.is_empty() {
        layers.extend(idle(model));
    }
    let r = layers.values().map(|layer: &NewLayer| layer.update.rank()).max().unwrap_or(1);
    let config = LoraConfig {
        r,
        lora_alpha: r as f64,
        rank_pattern: layers
            .iter()
            .filter(|(_, l)| l.update.rank() != r)
            .map(|(p, l)| (p.clone(), l.update.rank()))
            .collect(),
        alpha_pattern: layers
            .iter()
            .filter(|(_, l)| l.update.rank() != r)
            .map(|(p, l)| (p.clone(), l.update.rank() as f64))
            .collect(),
        target_modules: TargetModules::list(layers.keys()),
        bias: if done.biases { Bias::All } else { Bias::None },
        modules_to_save: Some(done.whole.clone()).filter(|paths| !paths.is_empty()),
        task_type: Some(TaskType::CausalLm),
        base_model_name_or_path: base.map(str::to_owned),
        ..LoraConfig::default()
    };
    add_lora(model, name, config, layers, copied)?;
    Ok(done)
}

/// A layer's weight, whichever it is.
fn values(layer: LayerRef<'_>) -> TensorData {
    match layer {
        LayerRef::Linear(layer) => layer.original_weight().dense().into_data(),
        LayerRef::Embedding(layer) => layer.original().dense().into_data(),
        LayerRef::Norm(norm) => norm.original().into_data(),
    }
}

/// Refuses models whose layers differ in number, place or size; rows of a vocabulary may be more or fewer.
fn check_shapes<M: PeftModel>(model: &M, tuned: &M) -> Result<()> {
    let sizes = |model: &M| -> BTreeMap<String, String> {
        let of = |layer: LayerRef<'_>, head: bool| match layer {
            LayerRef::Linear(l) if head => format!("[?, {}]", l.dims()[0]),
            LayerRef::Linear(l) => format!("[{}, {}], bias: {}", l.dims()[1], l.dims()[0], l.base().bias.is_some()),
            LayerRef::Embedding(e) => format!("[?, {}]", e.dims()[1]),
            LayerRef::Norm(norm) => format!("{:?}", norm.base().val().dims()),
        };
        let modules = model.modules();
        let head = |path: &str| modules.iter().any(|m| m.path == path && m.kind == ModuleKind::OutputHead);
        model.layers().into_iter().map(|(path, layer)| (path.clone(), of(layer, head(&path)))).collect()
    };
    let (ours, theirs) = (sizes(model), sizes(tuned));
    let mut problems: Vec<String> = Vec::new();
    for (path, size) in &ours {
        match theirs.get(path) {
            None => problems.push(format!("{path} is not in the tuned model")),
            Some(other) if other != size => {
                problems.push(format!("{path} is {size} in the base and {other} in the tuned model"))
            }
            Some(_) => {}
        }
    }
    problems.extend(
        theirs.keys().filter(|path| !ours.contains_key(*path)).map(|path| format!("{path} is not in the base")),
    );
    if problems.is_empty() { Ok(()) } else { Err(PeftError::Config { origin: "extraction".into(), problems }) }
}

/// The nearest update of `rank`.
fn nearest(delta: Tensor<2>, rank: usize) -> LowRank {
    let [out, inp] = delta.dims();
    if out.min(inp) <= WHOLE { LowRank::nearest(delta, rank) } else { LowRank::leading(delta, rank) }
}

fn distance(delta: &Tensor<2>, update: &LowRank) -> f64 {
    let norm = |t: Tensor<2>| t.powi_scalar(2).sum().into_scalar::<f64>().sqrt();
    let whole = norm(delta.clone());
    if whole > 0.0 { norm(delta.clone() - update.delta()) / whole } else { 0.0 }
}

/// An update that does nothing, where an adapter needs one: PEFT has none without targets.
fn idle<M: PeftModel>(model: &M) -> Option<(String, NewLayer)> {
    let modules = model.modules();
    let path = modules.iter().find(|module| module.kind == ModuleKind::Linear).map(|module| module.path.clone())?;
    let (_, layer) = model.layers().into_iter().find(|(p, _)| *p == path)?;
    let linear = layer.linear()?;
    let ([inp, out], device) = (linear.dims(), linear.base().weight.val().device().inner());
    let update = LowRank::new(Tensor::zeros([1, inp], &device), Tensor::zeros([out, 1], &device), 1.0);
    Some((path, NewLayer { update, magnitude: None, bias: None }))
}
