//! Checks before adapters are attached, activated together or merged.

use burn::tensor::Tensor;

use super::state::PeftState;
use crate::error::{PeftError, Result, Unsupported};
use crate::layers::layer::LayerRef;

/// A name for a new adapter.
pub(crate) fn name(name: &str, state: &PeftState) -> Result<()> {
    if state.has(name) {
        return Err(PeftError::AdapterExists(name.into()));
    }
    if name.is_empty() || name.contains(['.', '/', '\\']) {
        return Err(Unsupported::AdapterName { name: name.into() }.into());
    }
    Ok(())
}

/// A layer has one base: two adapters that bring a weight or a bias of their own cannot both have their way.
pub(crate) fn together(layers: Vec<(String, LayerRef<'_>)>, names: &[&str]) -> Result<()> {
    for (path, layer) in layers {
        let owners = |owns: &dyn Fn(&str) -> bool| names.iter().copied().filter(|name| owns(name)).collect::<Vec<_>>();
        let weights = owners(&|name| layer.owns_weight(name));
        let biases = owners(&|name| layer.owns_bias(name));
        // A vocabulary of another size, under an adapter that was made for the base's.
        let on_it = owners(&|name| layer.params(name).is_some());
        if let ([owner], [_, _, ..]) = (weights.as_slice(), on_it.as_slice())
            && layer.rows(owner) != layer.rows("")
        {
            let others = on_it.into_iter().filter(|name| name != owner).map(str::to_owned).collect();
            let (rows, expected) = (layer.rows(owner), layer.rows(""));
            let owner = (*owner).to_owned();
            return Err(Unsupported::OtherVocabulary { owner, others, path, rows, expected }.into());
        }
        for (what, owners) in [("weight", weights), ("bias", biases)] {
            if owners.len() > 1 {
                let adapters = owners.into_iter().map(str::to_owned).collect();
                return Err(Unsupported::TwoOwners { adapters, what, path }.into());
            }
        }
    }
    Ok(())
}

/// An adapter was made for the vocabulary that the base had before `merged` brought another.
pub(crate) fn fits_merged(layers: Vec<(String, LayerRef<'_>)>, names: &[&str], merged: &[String]) -> Result<()> {
    let resized = |layer: LayerRef<'_>| layer.rows("") != layer.original_rows();
    let made_for_it = |layer: LayerRef<'_>, name: &str| layer.params(name).is_some() && !layer.owns_weight(name);
    let others = names.iter().filter(|name| !merged.iter().any(|m| m == *name));
    let found =
        others.copied().find(|name| layers.iter().any(|(_, layer)| resized(*layer) && made_for_it(*layer, name)));
    match found {
        Some(name) => Err(PeftError::Merged {
            operation: format!("activate `{name}`, which was made for a vocabulary of another size,"),
            adapters: merged.to_vec(),
        }),
        None => Ok(()),
    }
}

/// Texts of one batch have one vocabulary.
pub(crate) fn one_vocabulary(layers: Vec<(String, LayerRef<'_>)>, names: &[&str]) -> Result<()> {
    for (path, layer) in layers {
        let mut sizes: Vec<(usize, &str)> = names.iter().map(|name| (layer.rows(name), *name)).collect();
        sizes.sort_unstable();
        sizes.dedup_by_key(|(rows, _)| *rows);
        if sizes.len() > 1 {
            let rows = sizes.into_iter().map(|(rows, name)| (rows, name.to_owned())).collect();
            return Err(Unsupported::MixedVocabularies { path, rows }.into());
        }
    }
    Ok(())
}

/// A quantised weight has no room for an update: it would be lost in the rounding.
pub(crate) fn not_quantised(layers: Vec<(String, LayerRef<'_>)>, names: &[&str]) -> Result<()> {
    let touched = |layer: LayerRef<'_>| names.iter().any(|name| layer.params(name).is_some());
    let quantised = layers.into_iter().filter(|(_, layer)| touched(*layer) && !layer.dtype().is_float());
    let modules: Vec<_> = quantised.map(|(path, _)| path).collect();
    if modules.is_empty() { Ok(()) } else { Err(Unsupported::QuantisedMerge { modules }.into()) }
}

/// Every weight and bias that the merge would make is finite.
pub(crate) fn finite(layers: Vec<(String, LayerRef<'_>)>, names: &[String]) -> Result<()> {
    fn all<const D: usize>(values: Tensor<D>) -> bool {
        values.is_finite().all().into_scalar::<bool>()
    }
    let ok = |layer: LayerRef<'_>| layer.merged_values(names).is_none_or(|(w, b)| all(w) && b.is_none_or(all));
    let modules: Vec<_> = layers.into_iter().filter(|(_, layer)| !ok(*layer)).map(|(path, _)| path).collect();
    if modules.is_empty() { Ok(()) } else { Err(PeftError::NonFiniteMerge { adapter: names.join(", "), modules }) }
}
