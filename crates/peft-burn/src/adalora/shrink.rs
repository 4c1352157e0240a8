//! AdaLoRA adapters cut down in memory: after the last mask, steps need not pay for triplets that are gone.
//!
//! It changes the steps that remain in one way: pruned rows of A and columns of B are no longer in the orthogonality
//! term, where PEFT keeps counting them. The adapter's output is the same.

use std::collections::BTreeMap;
use std::fmt::Display;

use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::tensor::{DType, TensorData};
use burn_pack::{Reader, Writer};

use super::layers::{layers, layers_mut};
use super::rank_pattern::rank_pattern;
use crate::error::{PeftError, Result, Unsupported};
use crate::methods::AdaLora;
use crate::methods::adalora::triplets::select;
use crate::model::PeftModel;

/// Which triplets, by `<path>.lora_E`.
type Pattern = BTreeMap<String, Vec<bool>>;

/// Takes the triplets of the adapter `name` that no longer live out of memory, and their part out of the optimiser's
/// state: what is left trains on with its moments. To be called after the last mask: what is gone stays gone.
///
/// # Errors
/// A name that is not attached, an adapter of another method, or an optimiser whose state has other shapes than its
/// parameters; then nothing has changed.
pub fn shrink<M: PeftModel>(model: &mut M, name: &str, optimizer: &mut ModuleOptimizer) -> Result<()> {
    let Some(live) = rank_pattern(model, name)? else { return Ok(()) };
    let mut cuts = BTreeMap::new();
    for (path, layer) in layers(model, name)?.1 {
        let flags = layer.held_of(&path, &live)?;
        for (param, axis) in [(&layer.lora_a, 0), (&layer.lora_e, 0), (&layer.lora_b, 1)] {
            cuts.insert(param.id.val(), Cut { axis, shape: param.val().dims(), flags: flags.clone() });
        }
    }
    let state = cut_state(optimizer, &cuts)?;
    shrink_to(model, name, &live)?;
    *optimizer = optimizer.clone().load_record(state);
    Ok(())
}

/// The triplets of the adapter `name` that are in memory, by `<path>.lora_E`, for [`shrink_to`]; `None` while none is
/// gone.
///
/// # Errors
/// A name that is not attached, or an adapter of another method.
pub fn held_triplets<M: PeftModel>(model: &M, name: &str) -> Result<Option<Pattern>> {
    let (_, layers) = layers(model, name)?;
    let held = |layer: &AdaLora| layer.of_all(&vec![true; layer.rank()]);
    let pattern: Pattern = layers.iter().map(|(path, layer)| (format!("{path}.lora_E"), held(layer))).collect();
    Ok(pattern.values().flatten().any(|held| !held).then_some(pattern))
}

/// Takes every triplet of the adapter `name` that is not in `pattern` out of memory, so that a record made after
/// [`shrink`] fits.
///
/// # Errors
/// A name that is not attached, an adapter of another method, or a pattern that is not this adapter's; then nothing has
/// changed.
pub fn shrink_to<M: PeftModel>(model: &mut M, name: &str, pattern: &Pattern) -> Result<()> {
    let (_, found) = layers(model, name)?;
    let flags: Vec<_> = found.iter().map(|(path, layer)| layer.held_of(path, pattern)).collect::<Result<_>>()?;
    layers_mut(model, name).into_iter().zip(flags).for_each(|(layer, flags)| layer.keep(&flags));
    Ok(())
}

/// The part that a parameter loses: rows (`axis` 0) or columns (1) of those that it has.
struct Cut {
    axis: usize,
    shape: [usize; 2],
    flags: Vec<bool>,
}

/// The optimiser's state with the same rows and columns gone. A parameter of which nothing is left loses its state.
fn cut_state(optimizer: &ModuleOptimizer, cuts: &BTreeMap<u64, Cut>) -> Result<OptimizerRecord> {
    let refused = |e: &dyn Display| PeftError::from(Unsupported::OptimizerState(e.to_string()));
    let bytes = optimizer.to_record().into_bytes().map_err(|e| refused(&e))?;
    let reader = Reader::from_bytes(bytes).map_err(|e| refused(&e))?;
    let gone = |id: u64| cuts.get(&id).is_some_and(|cut| !cut.flags.contains(&true));
    // Scalars are named `<parameter>.<field>`, paths `<parameter>`.
    let stays = |key: &str| key.split('.').next().and_then(|id| id.parse().ok()).is_none_or(|id| !gone(id));
    let (scalars, paths) = (reader.scalars().clone(), reader.metadata().clone());
    let mut tensors = Vec::new();
    for tensor in reader.into_tensors().map_err(|e| refused(&e))? {
        let (name, dtype, shape, id, bytes) = tensor.into_parts().map_err(|e| refused(&e))?;
        let cut = id.and_then(|id| cuts.get(&id));
        if id.is_some_and(gone) {
            continue;
        }
        let mut data = TensorData::from_bytes(bytes, shape, dtype);
        if let Some(cut) = cut {
            if data.shape()[..] != cut.shape {
                let message = format!("{name} is {:?} and its parameter {:?}; use AdamW", data.shape(), cut.shape);
                return Err(refused(&message));
            }
            data = select(&data.convert_dtype(DType::F32), cut.axis, &cut.flags);
        }
        let (bytes, shape, dtype) = data.into_parts();
        tensors.push(burn_pack::Tensor::new(name, dtype, shape, id, bytes));
    }
    let mut writer = Writer::new(tensors);
    for (key, value) in scalars.iter().filter(|(key, _)| stays(key)) {
        writer = writer.with_scalar(key, *value);
    }
    for (key, value) in paths.iter().filter(|(key, _)| stays(key)) {
        writer = writer.with_metadata(key, value);
    }
    let bytes = writer.into_bytes().map_err(|e| refused(&e))?;
    OptimizerRecord::from_bytes(bytes).map_err(|e| refused(&e))
}
