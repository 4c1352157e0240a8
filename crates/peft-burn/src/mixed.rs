//! One batch for many adapters, without merging or switching any.

use crate::error::{PeftError, Result, Unsupported};
use crate::layers::layer::LayerRef;
use crate::model::{PeftModel, one_vocabulary};

/// The name for "no adapter" in a mixed batch, as in PEFT.
pub const BASE: &str = "__base__";

/// Serving several adapters in one batch. Implemented for every [`PeftModel`].
pub trait MixedBatch: PeftModel {
    /// This model for batches whose text `i` uses the adapter `adapter_names[i]`, or none where that is [`BASE`]
    /// (PEFT's `adapter_names`, there for LoRA alone). Adapters of any methods and ranks; each product with a base
    /// weight is made once for the whole batch.
    ///
    /// The returned model shares every weight with this one, which stays as it is. It is for inference: nothing in it is
    /// trained.
    ///
    /// # Errors
    /// No name at all, names that are not attached, adapters that are merged or switched off, and adapters with
    /// `trainable_token_indices`, which a tied head would need for each row, with trained norms, or with vocabularies of
    /// several sizes.
    ///
    /// # Panics
    /// The returned model panics on a batch that has not one text for each name.
    fn mixed_batch(&self, adapter_names: &[&str]) -> Result<Self> {
        if adapter_names.is_empty() {
            return Err(Unsupported::MixedNoNames { base: BASE }.into());
        }
        let mut names: Vec<&str> = adapter_names.iter().copied().filter(|name| *name != BASE).collect();
        names.sort_unstable();
        names.dedup();
        let known = self.adapter_names();
        let unknown: Vec<&str> = names.iter().copied().filter(|name| !known.iter().any(|k| k == name)).collect();
        if !unknown.is_empty() {
            return Err(PeftError::UnknownAdapter { name: unknown.join("`, `"), available: known });
        }
        if !self.merged_adapters().is_empty() {
            return Err(Unsupported::MixedMerged { adapters: self.merged_adapters().to_vec() }.into());
        }
        if self.adapters_disabled() {
            return Err(Unsupported::MixedDisabled.into());
        }
        let own_rows = |name: &str, layer: LayerRef<'_>| match layer {
            LayerRef::Embedding(layer) => layer.adapters().get(name).is_some_and(|a| a.tied || a.tokens.is_some()),
            LayerRef::Norm(layer) => layer.adapters().get(name).is_some(),
            LayerRef::Linear(layer) => layer.adapters().get(name).is_some_and(|a| a.tokens.is_some()),
        };
        let layers = self.layers();
        let owners: Vec<&str> =
            names.into_iter().filter(|name| layers.iter().any(|(_, layer)| own_rows(name, *layer))).collect();
        if !owners.is_empty() {
            return Err(Unsupported::MixedOwnRows { adapters: owners.into_iter().map(str::to_owned).collect() }.into());
        }
        one_vocabulary(layers, adapter_names)?;
        let mut model = self.valid();
        model.set_by_row(adapter_names);
        Ok(model)
    }
}

impl<M: PeftModel> MixedBatch for M {}
