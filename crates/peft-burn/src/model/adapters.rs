//! Adapters on a model: add, switch, disable, merge, remove.

use burn::module::ParamId;

use super::adaptable::AdaptableModel;
use super::attach::attach;
use super::checks;
use super::merging;
use super::names::file_key;
use super::parameter_count::{TrainableReport, count_attached};
use super::rescale;
use super::state::{check_known, unknown};
use super::tying::{tie, tied_pair};
use crate::error::{PeftError, Result};
use crate::methods::PeftConfig;
use crate::param::{ParamMut, ParamRef, Role};
use crate::targets::{Resolution, resolve};

/// Adapters on a model: add, switch, disable, merge, remove. Implemented for every [`AdaptableModel`].
///
/// Loading and saving are in [`crate::files`].
pub trait PeftModel: AdaptableModel {
    /// Adds a new adapter and makes it the active, trained one. Returns what the user should know.
    ///
    /// # Errors
    /// An invalid configuration, names that match nothing, a name that is taken or has a dot: before anything changes.
    fn add_adapter(&mut self, name: &str, config: &PeftConfig, seed: u64) -> Result<Vec<String>> {
        let mut resolution = resolve(config, &self.modules(), self.model_type())?;
        if matches!(config, PeftConfig::Lora(lora) if lora.ties_weights()) {
            match tied_pair(self) {
                Some(pair) => tie(&mut resolution, pair)?,
                None => {
                    resolution.warnings.push("ensure_weight_tying is ignored: head and embedding are not tied".into())
                }
            }
        }
        self.attach(name, resolution, seed, true)
    }

    #[doc(hidden)]
    fn attach(&mut self, name: &str, resolution: Resolution, seed: u64, trainable: bool) -> Result<Vec<String>> {
        let warnings = attach(self, name, resolution, seed, trainable)?;
        self.set_adapter(&[name])?;
        Ok(warnings)
    }

    /// Makes these adapters the active ones, in this order (PEFT's `set_adapter`). The others are frozen; of these, one
    /// that was loaded frozen stays so until [`Self::set_trainable`].
    ///
    /// # Errors
    /// A name that is not attached; adapters of which two have a weight or a bias of their own for one layer.
    fn set_adapter(&mut self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| check_known(name, self.peft_state()))?;
        checks::together(self.layers(), names)?;
        checks::fits_merged(self.layers(), names, self.merged_adapters())?;
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        self.peft_state_mut().active = names;
        self.apply_active();
        Ok(())
    }

    #[doc(hidden)]
    fn apply_active(&mut self) {
        self.peft_state_mut().by_row.clear();
        let state = self.peft_state();
        let active = if state.disabled { Vec::new() } else { state.active.clone() };
        let trained: Vec<String> = active.iter().filter(|name| state.is_trainable(name)).cloned().collect();
        self.layers_mut().into_iter().for_each(|(_, layer)| layer.set_active(&active, &trained));
    }

    /// Sets whether the adapters that are active now are trained (`true`, as after [`Self::add_adapter`]) or frozen. Each
    /// keeps it when others become active.
    fn set_trainable(&mut self, trainable: bool) {
        let state = self.peft_state_mut();
        for name in &state.active {
            if let Some(adapter) = state.adapters.get_mut(name) {
                adapter.frozen = !trainable;
            }
        }
        self.apply_active();
    }

    /// Whether any active adapter is trained.
    fn trains_adapters(&self) -> bool {
        self.active_adapters().iter().any(|name| self.peft_state().is_trainable(name))
    }

    /// Switches every adapter off, merged ones too, until [`Self::enable_adapters`].
    ///
    /// # Errors
    /// None at present; merged adapters are unmerged and merged again by `enable_adapters`.
    fn disable_adapters(&mut self) -> Result<()> {
        let merged = self.peft_state().merged.clone();
        self.unmerge_adapters();
        let state = self.peft_state_mut();
        state.disabled = true;
        state.merged = merged;
        self.apply_active();
        Ok(())
    }

    /// Undoes [`Self::disable_adapters`], merges included.
    ///
    /// # Errors
    /// As [`Self::merge_adapters`].
    fn enable_adapters(&mut self) -> Result<()> {
        let state = self.peft_state_mut();
        if !std::mem::take(&mut state.disabled) {
            return Ok(());
        }
        let merged = std::mem::take(&mut state.merged);
        self.apply_active();
        let names: Vec<&str> = merged.iter().map(String::as_str).collect();
        if names.is_empty() { Ok(()) } else { self.merge_adapters(&names, false) }
    }

    /// Whether the adapters are switched off.
    fn adapters_disabled(&self) -> bool {
        self.peft_state().disabled
    }

    /// Names of all adapters, alphabetically.
    fn adapter_names(&self) -> Vec<String> {
        self.peft_state().adapters.keys().cloned().collect()
    }

    /// Names of the active adapters, in order.
    fn active_adapters(&self) -> &[String] {
        &self.peft_state().active
    }

    #[doc(hidden)]
    fn set_by_row(&mut self, names: &[&str]) {
        self.peft_state_mut().adapters.values_mut().for_each(|adapter| adapter.frozen = true);
        self.apply_active();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.layers_mut().into_iter().for_each(|(_, layer)| layer.set_by_row(&names));
        self.peft_state_mut().by_row = names;
    }

    /// The adapter of each text of a batch, if this is the model of a mixed batch
    /// ([`mixed_batch`](crate::MixedBatch::mixed_batch)); else none.
    fn adapters_by_row(&self) -> &[String] {
        &self.peft_state().by_row
    }

    /// This model with the scaling of every low-rank adapter (LoRA, DoRA, AdaLoRA) multiplied, which makes adapters weaker
    /// or stronger without touching a weight (PEFT's `rescale_adapter_scale`). The model itself stays as it is.
    ///
    /// # Errors
    /// A factor that is not finite, merged adapters, or no adapter of these methods.
    fn rescale_adapter_scale(&self, multiplier: f64) -> Result<Self> {
        rescale::rescaled(self, multiplier)
    }

    /// Names of the adapters that are folded into the base.
    fn merged_adapters(&self) -> &[String] {
        &self.peft_state().merged
    }

    /// The configuration of an adapter as PEFT would store it.
    ///
    /// # Errors
    /// A name that is not attached.
    fn adapter_config(&self, name: &str) -> Result<&PeftConfig> {
        check_known(name, self.peft_state())?;
        match self.peft_state().adapters.get(name) {
            Some(adapter) => Ok(&adapter.config),
            None => Err(unknown(name, self.peft_state())),
        }
    }

    /// Takes an adapter off.
    ///
    /// # Errors
    /// A name that is not attached, or one that is merged.
    fn delete_adapter(&mut self, name: &str) -> Result<()> {
        let state = self.peft_state();
        check_known(name, state)?;
        if state.merged.iter().any(|n| n == name) {
            let operation = format!("delete adapter `{name}`");
            return Err(PeftError::Merged { operation, adapters: state.merged.clone() });
        }
        self.layers_mut().into_iter().for_each(|(_, layer)| layer.remove(name));
        let state = self.peft_state_mut();
        state.adapters.remove(name);
        state.active.retain(|n| n != name);
        Ok(())
    }

    /// Folds adapters into the base's weights, which then cost nothing to run. With `safe`, every merged weight is
    /// first checked to be finite. [`Self::unmerge_adapters`] gives the base back to the bit.
    ///
    /// # Errors
    /// A name that is not attached; adapters that [`Self::set_adapter`] would refuse; some that are merged already or disabled; a
    /// quantised base; NaN or infinity in `safe` mode: before anything changes.
    fn merge_adapters(&mut self, names: &[&str], safe: bool) -> Result<()> {
        merging::merge(self, names, safe)
    }

    /// Undoes [`Self::merge_adapters`].
    fn unmerge_adapters(&mut self) {
        merging::unmerge(self);
    }

    /// Folds the active adapters in for good and forgets all adapters (PEFT's `merge_and_unload`). A tied head that
    /// differs from the embedding then gets a weight of its own.
    ///
    /// # Errors
    /// As [`Self::merge_adapters`].
    fn merge_and_unload(&mut self, safe: bool) -> Result<()> {
        merging::merge_and_unload(self, safe)
    }

    /// Forgets all adapters; the base is what it was before the first.
    fn unload(&mut self) {
        merging::unmerge(self);
        merging::forget(self);
    }

    /// The parameters of an adapter by their names in its safetensors file.
    ///
    /// # Errors
    /// A name that is not attached.
    fn adapter_params(&self, name: &str) -> Result<Vec<(String, ParamRef<'_>)>> {
        check_known(name, self.peft_state())?;
        let mut all = Vec::new();
        for (path, layer) in self.layers() {
            all.extend(layer.params(name).into_iter().flatten().map(|(suffix, p)| (file_key(&path, suffix), p)));
        }
        Ok(all)
    }

    /// The parameters of an adapter by their names in its safetensors file, each with its role.
    ///
    /// # Errors
    /// A name that is not attached.
    fn adapter_roles(&self, name: &str) -> Result<Vec<(String, ParamId, Role)>> {
        check_known(name, self.peft_state())?;
        let mut all = Vec::new();
        for (path, layer) in self.layers() {
            let params = layer.params(name).into_iter().flatten();
            all.extend(params.map(|(suffix, p)| (file_key(&path, suffix), p.id(), Role::of(suffix, &p))));
        }
        Ok(all)
    }

    /// As [`Self::adapter_params`], to write into.
    ///
    /// # Errors
    /// A name that is not attached.
    fn adapter_params_mut(&mut self, name: &str) -> Result<Vec<(String, ParamMut<'_>)>> {
        check_known(name, self.peft_state())?;
        let mut all = Vec::new();
        for (path, layer) in self.layers_mut() {
            all.extend(layer.params(name).into_iter().flatten().map(|(suffix, p)| (file_key(&path, suffix), p)));
        }
        Ok(all)
    }

    /// Trained and total numbers of parameters, worded as PEFT's `print_trainable_parameters`.
    fn trainable_parameters(&self) -> TrainableReport {
        count_attached(self)
    }

    /// The paths that an adapter adapts.
    ///
    /// # Errors
    /// A name that is not attached.
    fn adapted_modules(&self, name: &str) -> Result<&[String]> {
        match self.peft_state().adapters.get(name) {
            Some(adapter) => Ok(&adapter.adapted),
            None => Err(unknown(name, self.peft_state())),
        }
    }
}

impl<M: AdaptableModel> PeftModel for M {}
