//! AdaLoRA's phases: full rank, a budget of triplets that falls with the cube, and final ranks.

use super::layers::layers;
use crate::error::{PeftError, Result, Unsupported};
use crate::methods::{AdaLoraConfig, PeftConfig};
use crate::model::PeftModel;

/// How many triplets a model may keep at each step, and when it is masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSchedule {
    init: usize,
    target: usize,
    tinit: usize,
    /// The step of the last mask.
    pub(super) end: usize,
    delta_t: usize,
}

impl BudgetSchedule {
    /// The schedule of `config` for a model with `triplets` in `modules` adapted modules.
    ///
    /// # Errors
    /// `total_step` is missing.
    pub fn new(config: &AdaLoraConfig, triplets: usize, modules: usize) -> Result<Self> {
        let end = config.last_mask()?;
        let target = (config.target_r * modules).min(triplets);
        Ok(Self { init: triplets, target, tinit: config.tinit, end, delta_t: config.delta_t.max(1) })
    }

    /// The budget after optimiser step `step`, counted from 1: it falls with the cube of the remaining share of the
    /// pruning phase.
    pub fn budget(&self, step: usize) -> usize {
        if step <= self.tinit {
            self.init
        } else if step >= self.end {
            self.target
        } else {
            let rest = 1.0 - (step - self.tinit) as f64 / (self.end - self.tinit) as f64;
            ((self.init - self.target) as f64 * rest.powf(3.0) + self.target as f64) as usize
        }
    }

    /// Whether the triplets are ranked and masked anew at `step`.
    pub fn masks(&self, step: usize) -> bool {
        step == self.end || (self.tinit < step && step < self.end && step.is_multiple_of(self.delta_t))
    }
}

/// Sets the number of optimiser steps over which the AdaLoRA adapter `name` is trained: its `total_step`.
///
/// # Errors
/// A name that is not attached, an adapter of another method, or phases that leave no step to prune in; then nothing
/// has changed.
pub fn set_total_step<M: PeftModel>(model: &mut M, name: &str, steps: usize) -> Result<()> {
    let mut config = model.adapter_config(name)?.clone();
    let PeftConfig::AdaLora(adalora) = &mut config else {
        return Err(Unsupported::NotAdaLora { adapter: name.to_owned(), peft_type: config.peft_type() }.into());
    };
    adalora.total_step = Some(steps);
    if let Some(problem) = adalora.schedule_problem() {
        return Err(PeftError::Config { origin: format!("adapter `{name}`"), problems: vec![problem] });
    }
    model.peft_state_mut().set_config(name, config);
    Ok(())
}

/// The step of the last mask of the AdaLoRA adapter `name`, after which its ranks are final.
///
/// # Errors
/// A name that is not attached, an adapter of another method, or one without `total_step`.
pub fn last_mask<M: PeftModel>(model: &M, name: &str) -> Result<usize> {
    layers(model, name)?.0.last_mask()
}

impl PeftConfig {
    /// Sets the number of optimiser steps of the run, AdaLoRA's `total_step`; other methods have no such key and stay as
    /// they are.
    pub fn with_total_step(mut self, steps: usize) -> Self {
        self.set_total_step(steps);
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn schedule(total: usize, init_r: usize, target_r: usize) -> BudgetSchedule {
        let config = AdaLoraConfig {
            init_r,
            target_r,
            tinit: 5,
            tfinal: 10,
            delta_t: 2,
            total_step: Some(total),
            ..AdaLoraConfig::default()
        };
        BudgetSchedule::new(&config, init_r * 8, 8).unwrap()
    }

    #[test]
    fn budget_falls_with_the_cube_and_masks_come_between_the_phases() {
        let schedule = schedule(30, 6, 3);
        let budgets: Vec<_> = [1, 5, 6, 7, 8, 10, 14, 15, 19, 20, 30, 99].map(|s| schedule.budget(s)).into();
        assert_eq!(budgets, [48, 48, 43, 39, 36, 31, 25, 24, 24, 24, 24, 24]);
        let masks: Vec<_> = (1..40).filter(|&s| schedule.masks(s)).collect();
        assert_eq!(masks, [6, 8, 10, 12, 14, 16, 18, 20]);
    }

    #[test]
    fn equal_ranks_never_ask_for_pruning() {
        let schedule = schedule(30, 4, 4);
        assert!((1..40).all(|step| schedule.budget(step) == 32));
    }

    #[test]
    fn the_schedule_needs_total_step() {
        let error = BudgetSchedule::new(&AdaLoraConfig::default(), 8, 1).unwrap_err();
        assert!(error.to_string().contains("total_step"));
    }
}
