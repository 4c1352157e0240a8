//! New adapters from weighted combinations of others (PEFT's `add_weighted_adapter`).

mod convert;
mod extract;
mod ia3;
mod kinds;
mod new_lora;
mod plain_lora;
mod task_arithmetic;

pub use convert::{Conversion, convert_to_lora};
pub use extract::{Extraction, extract_lora};
pub(crate) use plain_lora::as_plain_lora;
pub use task_arithmetic::MajoritySign;

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};

use ia3::add_ia3;
pub use kinds::{Combination, Weighting};

use crate::config::{Bias, TargetModules};
use crate::error::{NotCombined, Result};
use crate::layers::layer::LayerRef;
use crate::low_rank::LowRank;
use crate::methods::{Change, LoraConfig};
use crate::model::PeftModel;
use crate::random::TensorRng;
use kinds::{own_weight, refuse};
use new_lora::{NewLayer, add_lora};
use task_arithmetic::{Pruning, Rule, combine};

/// One adapter's part in one layer.
struct Part {
    weight: f64,
    update: LowRank,
    /// DoRA: the row norms of the base weight.
    norms: Option<Tensor<1>>,
}

/// Adds the adapter `name`, made of `adapters` with a weight each. It is not activated.
///
/// LoRA, VeRA and AdaLoRA adapters, in any mixture, give a LoRA adapter; IA3 adapters give an IA3 adapter, linearly. DoRA
/// adapters give a DoRA adapter of their updates whose norms are those of the base, as in PEFT: what they have learned of norms
/// is left out. [`convert_to_lora`] first makes LoRA of them with all that they change.
///
/// # Errors
/// Unknown names, a name that is taken, methods that do not go together, ranks that a combination cannot mix, a density
/// that is missing or impossible; trained biases, modules and tokens, and adapters that carry a residual of the base:
/// before anything changes.
pub fn add_weighted_adapter<M: PeftModel>(
    model: &mut M,
    name: &str,
    adapters: &[(&str, f64)],
    weighting: Weighting,
) -> Result<()> {
    if adapters.is_empty() {
        return Err(refuse(NotCombined::NoAdapter));
    }
    if let Some(&(name, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
        return Err(refuse(NotCombined::Weight { adapter: name.to_owned(), weight }));
    }
    let pruning = weighting.pruning()?;
    let configs = adapters.iter().map(|(n, _)| model.adapter_config(n)).collect::<Result<Vec<_>>>()?;
    let change = configs[0].change();
    if configs.iter().any(|config| config.change() != change) {
        let mut alone: Vec<_> = configs.iter().filter(|config| config.change() != Change::LowRank).collect();
        alone.dedup_by_key(|config| config.change());
        let methods = alone.into_iter().map(|config| config.display_name().to_owned()).collect();
        return Err(refuse(NotCombined::Methods { methods }));
    }
    let first = configs[0].clone();
    if change == Change::Vectors {
        return add_ia3(model, name, adapters, &weighting, first);
    }
    let mut layers: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    let mut ranks = Vec::new();
    for &(adapter, weight) in adapters {
        let parts = parts(model, adapter, weight)?;
        ranks.push(parts.iter().map(|(_, part)| part.update.rank()).max().unwrap_or(0));
        parts.into_iter().for_each(|(path, part)| layers.entry(path).or_default().push(part));
    }
    let largest = ranks.iter().copied().max().unwrap_or(0);
    let rule = weighting.combination.rule();
    let r = match rule {
        None => ranks.iter().sum(),
        Some((_, true)) => weighting.svd_rank.unwrap_or(largest),
        Some((_, false)) if layers.values().flatten().all(|part| part.update.rank() == largest) => largest,
        Some((_, false)) => {
            return Err(refuse(NotCombined::Ranks { ranks }));
        }
    };
    if r == 0 {
        return Err(refuse(NotCombined::ZeroRank));
    }
    let mut new = BTreeMap::new();
    for (path, parts) in layers {
        let update = match rule {
            None => side_by_side(&parts),
            Some((rule, true)) => whole(rule, &parts, pruning, r, &mut TensorRng::new(weighting.seed, &path)),
            Some((rule, false)) => apart(rule, &parts, pruning, &mut TensorRng::new(weighting.seed, &path)),
        };
        let magnitude = parts.into_iter().find_map(|part| part.norms);
        new.insert(path, NewLayer { update: update.at_rank(r), magnitude, bias: None });
    }
    let config = LoraConfig {
        r,
        lora_alpha: r as f64,
        use_dora: change == Change::Direction,
        target_modules: TargetModules::list(new.keys()),
        task_type: first.task_type(),
        base_model_name_or_path: first.base_model_name_or_path().map(Into::into),
        ..LoraConfig::default()
    };
    add_lora(model, name, config, new, BTreeMap::new())
}

/// The updates of one adapter, by path.
fn parts<M: PeftModel>(model: &M, name: &str, weight: f64) -> Result<Vec<(String, Part)>> {
    let config = model.adapter_config(name)?;
    if config.bias() != Bias::None {
        return Err(refuse(NotCombined::Biases { adapter: name.to_owned() }));
    }
    let mut all = Vec::new();
    for (path, layer) in model.layers() {
        let (update, magnitude, base) = match layer {
            LayerRef::Linear(linear) => {
                let Some(adapter) = linear.adapters().get(name) else { continue };
                let Some(method) = adapter.method.as_ref().filter(|_| adapter.weight.is_none()) else {
                    return Err(refuse(own_weight(name, "a weight", path)));
                };
                let update = method.update().filter(|_| !method.changes_bias(linear.base().bias.is_some()));
                let magnitude = update.as_ref().and_then(|update| update.magnitude);
                (update.map(|update| update.low_rank), magnitude, linear.original_weight())
            }
            LayerRef::Embedding(embedding) => {
                let Some(adapter) = embedding.adapters().get(name) else { continue };
                let Some(lora) = adapter.lora.as_ref().filter(|_| adapter.tokens.is_none()) else {
                    return Err(refuse(own_weight(name, "rows", path)));
                };
                (Some(lora.low_rank()), lora.norms(), embedding.original().dense().transpose().into())
            }
            LayerRef::Norm(norm) if norm.adapters().get(name).is_some() => {
                return Err(refuse(own_weight(name, "a weight", path)));
            }
            LayerRef::Norm(_) => continue,
        };
        let Some(update) = update else {
            return Err(refuse(NotCombined::BeyondLowRank { adapter: name.to_owned(), path }));
        };
        let norms = magnitude.map(|magnitude| magnitude.base_norms(&base).detach().inner());
        all.push((path, Part { weight, update, norms }));
    }
    Ok(all)
}

fn side_by_side(parts: &[Part]) -> LowRank {
    let a = parts.iter().map(|p| p.update.a.clone().mul_scalar(p.weight * p.update.scaling)).collect();
    let b = parts.iter().map(|p| p.update.b.clone()).collect();
    LowRank::new(Tensor::cat(a, 0), Tensor::cat(b, 1), 1.0)
}

/// The rule on A and on B, each with the root of its weight.
fn apart(rule: Rule, parts: &[Part], pruning: Pruning, rng: &mut TensorRng) -> LowRank {
    let mut side = |pick: fn(&LowRank) -> &Tensor<2>, signed: bool| {
        let weighted = parts.iter().map(|p| {
            let weight = p.weight * p.update.scaling;
            // The sign goes to one side only.
            let root = weight.abs().sqrt() * if signed && weight < 0.0 { -1.0 } else { 1.0 };
            (root, pick(&p.update).clone())
        });
        merge(rule, weighted, pruning, rng)
    };
    let a = side(|u| &u.a, true);
    let b = side(|u| &u.b, false);
    LowRank::new(a, b, 1.0)
}

/// The rule on the updates, brought to rank `r`.
fn whole(rule: Rule, parts: &[Part], pruning: Pruning, r: usize, rng: &mut TensorRng) -> LowRank {
    LowRank::nearest(merge(rule, parts.iter().map(|p| (p.weight, p.update.delta())), pruning, rng), r)
}

fn merge(
    rule: Rule,
    tensors: impl Iterator<Item = (f64, Tensor<2>)>,
    pruning: Pruning,
    rng: &mut TensorRng,
) -> Tensor<2> {
    let tensors: Vec<_> = tensors.collect();
    let (shape, device) = (tensors[0].1.dims(), tensors[0].1.device());
    let values: Vec<_> = tensors.into_iter().map(|(w, t)| (w, t.into_data().iter::<f32>().collect())).collect();
    Tensor::from_data(TensorData::new(combine(rule, &values, pruning, rng), shape), (&device, DType::F32))
}
