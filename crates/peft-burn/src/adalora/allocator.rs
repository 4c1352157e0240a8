//! AdaLoRA's rank allocator: which triplets the model keeps, step by step.
//!
//! At mask steps the triplets with the lowest scores of the whole model ([`Importance`]) lose their entry of E,
//! until the falling budget is met; after the last mask the survivors are fixed. Scores stay on the device except at
//! mask steps.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::budget::BudgetSchedule;
use super::layers::{layers, layers_mut};
use crate::error::{Result, Unsupported};
use crate::methods::{AdaLora, Importance};
use crate::model::PeftModel;
use crate::param;

/// The results of one call of [`update_and_allocate`].
#[derive(Clone, Debug)]
pub struct Allocation {
    /// How many triplets the model may keep.
    pub budget: usize,
    /// The new mask, at mask steps.
    pub mask: Option<RankMask>,
}

/// The triplets that a mask kept, and why.
#[derive(Clone, Debug)]
pub struct RankMask {
    /// Scores up to this one are pruned; `None` where the budget asks for none.
    pub threshold: Option<f32>,
    /// The score of every triplet in memory, by module path.
    pub scores: BTreeMap<String, Vec<f32>>,
    /// Whether it was kept.
    pub kept: BTreeMap<String, Vec<bool>>,
}

/// AdaLoRA's part of a training step, for the adapter `name`: to be called once an optimiser step, after it, with the
/// gradients that it used ([`keep_gradients`]) and its number, counted from 1.
///
/// # Errors
/// A name that is not attached, an adapter of another method, a configuration without `total_step`; before the last
/// mask also a parameter without a gradient. Then nothing has changed.
pub fn update_and_allocate<M: PeftModel>(
    model: &mut M,
    name: &str,
    grads: &GradientsParams,
    step: usize,
) -> Result<Allocation> {
    update_and_agree(model, name, grads, step, |mask| mask)
}

/// As [`update_and_allocate`], for a replica of several: at mask steps `agree` is given the replica's own mask and returns
/// the one that all of them apply.
///
/// # Errors
/// As [`update_and_allocate`].
pub fn update_and_agree<M: PeftModel>(
    model: &mut M,
    name: &str,
    grads: &GradientsParams,
    step: usize,
    agree: impl FnOnce(RankMask) -> RankMask,
) -> Result<Allocation> {
    let (config, found) = layers(model, name)?;
    let config = config.clone();
    let triplets = found.iter().map(|(_, l)| l.rank()).sum();
    let schedule = BudgetSchedule::new(&config, triplets, found.len())?;
    let paths: Vec<String> = found.iter().map(|(path, _)| path.clone()).collect();
    if found.iter().any(|(_, layer)| layer.importance.is_none()) {
        return Err(Unsupported::FrozenAllocation { adapter: name.to_owned() }.into());
    }
    if step < schedule.end {
        let observed = found.iter().map(|(path, layer)| gradients(path, layer, grads)).collect::<Result<Vec<_>>>()?;
        for (layer, grads) in layers_mut(model, name).into_iter().zip(observed) {
            let values = [&layer.lora_a, &layer.lora_e, &layer.lora_b].map(|p| p.val().inner());
            if let (Some(importance), Some(grads)) = (&mut layer.importance, grads) {
                importance.observe(values, grads, [config.beta1, config.beta2]);
            }
        }
    }
    let budget = schedule.budget(step);
    let mask = schedule.masks(step).then(|| agree(rank(model, name, &paths, triplets - budget)));
    if let Some(mask) = &mask {
        for (layer, path) in layers_mut(model, name).into_iter().zip(&paths) {
            if let Some(importance) = layer.importance.as_mut().filter(|_| !mask.kept[path].is_empty()) {
                importance.set_mask(&mask.kept[path]);
            }
        }
    }
    // The last mask holds for every step after it, whatever the optimiser does.
    if mask.is_some() || step > schedule.end {
        layers_mut(model, name).into_iter().for_each(apply_mask);
    }
    if step == schedule.end {
        layers_mut(model, name).into_iter().filter_map(|l| l.importance.as_mut()).for_each(Importance::reset);
    }
    Ok(Allocation { budget, mask })
}

/// Copies of the gradients that [`update_and_allocate`] needs, to be taken before the optimiser consumes them.
///
/// # Errors
/// A name that is not attached, or an adapter of another method.
pub fn keep_gradients<M: PeftModel>(model: &M, name: &str, grads: &GradientsParams) -> Result<GradientsParams> {
    let mut kept = GradientsParams::new();
    for (_, layer) in layers(model, name)?.1 {
        for id in [&layer.lora_a, &layer.lora_e, &layer.lora_b].map(|p| p.id) {
            if let Some(grad) = grads.get::<2>(id) {
                kept.register(id, grad);
            }
        }
    }
    Ok(kept)
}

/// How many entries of all E of the adapter `name` are not zero, on the device: `[1]`.
///
/// # Errors
/// A name that is not attached, or an adapter of another method.
pub fn live_triplets<M: PeftModel>(model: &M, name: &str) -> Result<Tensor<1>> {
    let (_, found) = layers(model, name)?;
    let entries = found.iter().filter(|(_, l)| l.rank() > 0).map(|(_, l)| l.lora_e.val().inner());
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() {
        return Ok(Tensor::zeros([1], &crate::model::device_of(model)));
    }
    Ok(Tensor::cat(entries, 0).not_equal_elem(0.0).float().sum())
}

/// How many triplets the last mask of the adapter `name` kept; all of them before the first. Read from the device.
///
/// # Errors
/// A name that is not attached, or an adapter of another method.
pub fn kept_triplets<M: PeftModel>(model: &M, name: &str) -> Result<usize> {
    let (_, found) = layers(model, name)?;
    let all: usize = found.iter().map(|(_, layer)| layer.rank()).sum();
    let masks = found.iter().filter(|(_, l)| l.rank() > 0).filter_map(|(_, l)| l.importance.as_ref());
    let masks: Vec<_> = masks.map(|importance| importance.mask().inner()).collect();
    if masks.is_empty() {
        return Ok(all);
    }
    Ok(Tensor::cat(masks, 0).into_data().iter::<f32>().filter(|kept| *kept != 0.0).count())
}

/// The gradients of A, E and B; `None` for a layer at rank 0.
fn gradients(path: &str, layer: &AdaLora, grads: &GradientsParams) -> Result<Option<[Tensor<2>; 3]>> {
    if layer.rank() == 0 {
        return Ok(None);
    }
    let get = |p: &Param<Tensor<2>>| {
        let found = grads.get::<2>(p.id).map(Tensor::inner);
        found.ok_or_else(|| Unsupported::NoGradients { path: path.to_owned() })
    };
    Ok(Some([get(&layer.lora_a)?, get(&layer.lora_e)?, get(&layer.lora_b)?]))
}

/// Ranks all triplets and drops the `excess` lowest; ties with the last of them go too, as in PEFT.
fn rank<M: PeftModel>(model: &mut M, name: &str, paths: &[String], excess: usize) -> RankMask {
    let layers = layers_mut(model, name);
    let scores = layers.iter().filter(|l| l.rank() > 0).filter_map(|l| l.importance.as_ref()).map(Importance::scores);
    // The one place where the host sees scores: all of them in one transfer.
    let scores = scores.collect::<Vec<_>>();
    let all: Vec<f32> =
        if scores.is_empty() { Vec::new() } else { Tensor::cat(scores, 0).into_data().iter().collect() };
    let mut sorted = all.clone();
    sorted.sort_by(f32::total_cmp);
    let threshold = excess.checked_sub(1).and_then(|last| sorted.get(last).copied());
    let mut rest = all.as_slice();
    let mut mask = RankMask { threshold, scores: BTreeMap::new(), kept: BTreeMap::new() };
    for (layer, path) in layers.iter().zip(paths) {
        let (own, others) = rest.split_at(layer.rank().min(rest.len()));
        rest = others;
        mask.kept.insert(path.clone(), own.iter().map(|s| threshold.is_none_or(|t| *s > t)).collect());
        mask.scores.insert(path.clone(), own.to_vec());
    }
    mask
}

/// Zeroes E where the mask is zero.
fn apply_mask(layer: &mut AdaLora) {
    if let Some(importance) = layer.importance.as_ref().filter(|_| layer.rank() > 0) {
        let pruned = importance.mask().inner().equal_elem(0.0);
        param::update(&mut layer.lora_e, |e| e.mask_fill(pruned, 0.0));
    }
}
