//! AdaLoRA in a run: its phases against the run's steps, and its part of each step.

use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use peft_burn::adalora::RankMask;
use peft_burn::{PeftConfig, PeftError, PeftModel, adalora};

use crate::error::{AdaLoraError, Result};

/// The part of AdaLoRA in a run.
#[derive(Clone, Debug)]
pub(crate) struct Pruning {
    adapter: String,
    /// The step of the last mask.
    last_mask: usize,
    /// Whether pruned triplets leave memory after it.
    shrink: bool,
}

/// The results of a step's allocation.
#[derive(Clone, Debug)]
pub(crate) struct Allocated {
    /// Triplets allowed.
    pub budget: usize,
    /// Entries of all E that are not zero after the step: `[1]`, on the device.
    pub live: Tensor<1>,
}

/// Refuses `shrink_after_pruning` for an adapter that is not pruned.
pub(crate) fn check_shrink(config: Option<&PeftConfig>, shrink: bool) -> Result<()> {
    match shrink && !config.is_some_and(|config| config.prunes()) {
        true => Err(AdaLoraError::NothingToShrink.into()),
        false => Ok(()),
    }
}

/// Fills in the `total_step` of the adapter that is trained, if it is AdaLoRA: `total_steps` of the run.
///
/// # Errors
/// A `total_step` of the configuration's own that is another number, phases that leave no step to prune in, and
/// `shrink_after_pruning` for an adapter that is not pruned; then nothing has changed.
pub(crate) fn plan<M: PeftModel>(
    model: &mut M,
    adapter: Option<&str>,
    total_steps: usize,
    shrink: bool,
) -> Result<Option<Pruning>> {
    let config = adapter.map(|name| model.adapter_config(name)).transpose()?;
    check_shrink(config, shrink)?;
    let (Some(name), Some(config)) = (adapter, config.filter(|config| config.prunes())) else { return Ok(None) };
    if let Some(total_step) = config.total_step().filter(|own| *own != total_steps) {
        return Err(AdaLoraError::TotalStep { total_step, steps: total_steps }.into());
    }
    set_total_step(model, name, total_steps)?;
    let last_mask = adalora::last_mask(model, name)?;
    Ok(Some(Pruning { adapter: name.to_owned(), last_mask, shrink }))
}

/// Begins the phases of the adapter `name` anew over `steps` steps, if it is AdaLoRA.
pub(crate) fn restart<M: PeftModel>(model: &mut M, name: &str, steps: usize) -> Result<()> {
    if model.adapter_config(name)?.prunes() { set_total_step(model, name, steps) } else { Ok(()) }
}

fn set_total_step<M: PeftModel>(model: &mut M, name: &str, steps: usize) -> Result<()> {
    adalora::set_total_step(model, name, steps).map_err(|source| match source {
        PeftError::Config { problems, .. } => AdaLoraError::Phases { steps, problems }.into(),
        other => other.into(),
    })
}

impl Pruning {
    /// The regulariser: `[1]`.
    pub fn orthogonal<M: PeftModel>(&self, model: &M) -> Result<Tensor<1>> {
        Ok(adalora::orthogonal_regularization(model, &self.adapter)?)
    }

    /// The gradients that the allocation after the step needs.
    pub fn keep<M: PeftModel>(&self, model: &M, grads: &GradientsParams) -> Result<GradientsParams> {
        Ok(adalora::keep_gradients(model, &self.adapter, grads)?)
    }

    /// The work after optimiser step `step`: importance, budget, mask, and the cut after the last mask. `agree` makes one
    /// mask of those of all replicas.
    pub fn allocate<M: PeftModel>(
        &self,
        model: &mut M,
        optimizer: &mut ModuleOptimizer,
        kept: &GradientsParams,
        step: usize,
        agree: impl FnOnce(RankMask) -> RankMask,
    ) -> Result<Allocated> {
        let budget = adalora::update_and_agree(model, &self.adapter, kept, step, agree)?.budget;
        if self.shrink && step == self.last_mask {
            adalora::shrink(model, &self.adapter, optimizer)?;
        }
        Ok(Allocated { budget, live: adalora::live_triplets(model, &self.adapter)? })
    }
}
