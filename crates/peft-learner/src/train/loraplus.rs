//! LoRA+: two learning rates for the two sides of an adapter.

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::ParamGroup;
use peft_burn::{PeftModel, Role};

use super::schedule::{Schedule, ScheduledLr};
use crate::config::TrainingConfig;
use crate::error::Result;

/// The learning rates of a run that has `start` steps behind it: one for everything, or with `loraplus_lr_ratio` LoRA+'s
/// (<https://arxiv.org/abs/2402.12354>), grouped as PEFT's `create_loraplus_optimizer` groups them: every `lora_B` and all
/// vectors (DoRA's magnitudes, VeRA's scales, biases) learn at `ratio` times the rate, an embedding's `lora_embedding_A`
/// and `_B` at `loraplus_lr_embedding`, and everything else at the rate itself.
///
/// # Errors
/// An adapter that is not attached.
pub(crate) fn learning_rates<M: PeftModel>(
    training: &TrainingConfig,
    model: &M,
    adapter: Option<&str>,
    schedule: Schedule,
    start: usize,
) -> Result<ModuleLrScheduler> {
    let rate = |peak| ScheduledLr::new(schedule, peak, start);
    let all = ModuleLrScheduler::new(rate(training.learning_rate));
    let (Some(ratio), Some(adapter)) = (training.loraplus_lr_ratio, adapter) else { return Ok(all) };
    let (mut fast, mut embedding) = (Vec::new(), Vec::new());
    for (_, id, role) in model.adapter_roles(adapter)? {
        match role {
            Role::Embedding => embedding.push(id),
            Role::Up | Role::Vector => fast.push(id),
            _ => {}
        }
    }
    Ok(all
        .with_group(ParamGroup::from_ids(fast), rate(training.learning_rate * ratio))
        .with_group(ParamGroup::from_ids(embedding), rate(training.loraplus_lr_embedding)))
}
