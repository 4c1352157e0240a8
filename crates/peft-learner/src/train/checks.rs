//! Everything that can be wrong with a run before it begins, in one place. Nothing is written here.

use burn::tensor::Device;
use llama_burn::CausalModel;
use peft_burn::{InitLoraWeights, PeftModel};

use super::adalora::{self, Pruning};
use super::replicas;
use crate::config::TrainingConfig;
use crate::data::Stream;
use crate::error::{LearnerError, Problems, Result};

/// The parts of a run that can contradict each other.
pub(crate) struct Parts<'a> {
    pub adapter: Option<&'a str>,
    pub training: &'a TrainingConfig,
    pub stream: &'a Stream,
    pub total_steps: usize,
    /// Devices that train together; none or one: where the model is.
    pub devices: &'a [Device],
    /// Whether Burn's own strategy adds up their gradients.
    pub own_strategy: bool,
    /// Whether there are rows to evaluate on.
    pub evaluates: bool,
    /// Whether somebody asks for evaluations.
    pub asks_for_evaluations: bool,
}

/// The results of the checks.
pub(crate) struct Found {
    /// Whether anything is drawn at random in a step.
    pub dropout: bool,
    /// AdaLoRA's phases, which are now in the adapter's configuration.
    pub pruning: Option<Pruning>,
}

/// Checks all of it, and lays out AdaLoRA's phases.
///
/// # Errors
/// Options that cannot be run, or contradict each other. Nothing has been written.
pub(crate) fn check<M: CausalModel>(model: &mut M, parts: &Parts<'_>) -> Result<Found> {
    let Parts { training, total_steps, devices, .. } = *parts;
    if parts.own_strategy {
        replicas::check(devices)?;
    }
    let dropout = options(model, parts.adapter, training, devices.len())?;
    let mut problems = Problems::default();
    let accumulation = training.gradient_accumulation_steps.saturating_mul(devices.len().max(1));
    let micro_batches = parts.stream.micro_batches();
    if micro_batches != accumulation {
        problems.push(format!(
            "the stream's steps have {micro_batches} micro-batches, and `gradient_accumulation_steps` on {} device(s) adds \
             up {accumulation}; make the two agree",
            devices.len().max(1)
        ));
    }
    if parts.asks_for_evaluations && !parts.evaluates {
        problems.push("evaluations are asked for, and there are no validation rows; give some, or leave out what is told of evaluations");
    }
    if !problems.is_empty() {
        return Err(LearnerError::Options(problems));
    }
    // Only now: `max_steps` may be absent from the configuration.
    if training.warmup_steps > total_steps {
        return Err(LearnerError::WarmUp { warmup_steps: training.warmup_steps, total_steps });
    }
    if let Some(adapter) = parts.adapter {
        trained(model, adapter)?;
    }
    let pruning = adalora::plan(model, parts.adapter, total_steps, training.shrink_after_pruning)?;
    Ok(Found { dropout: dropout > 0.0, pruning })
}

/// Checks what can be told before any row is read: the options by themselves, and with the adapter. Returns the largest dropout.
///
/// # Errors
/// Options that cannot be run, or contradict each other.
pub(crate) fn options<M: CausalModel>(
    model: &M,
    adapter: Option<&str>,
    training: &TrainingConfig,
    devices: usize,
) -> Result<f64> {
    if devices > 1 && training.gradient_checkpointing {
        return Err(LearnerError::CheckpointedReplicas);
    }
    let mut problems = training.problems();
    let config = adapter.map(|name| model.adapter_config(name)).transpose()?;
    if let Some((InitLoraWeights::PissaNiter(n), _)) = config.and_then(|config| config.origin())
        && !training.save_as_lora
    {
        problems.push(format!(
            "`save_as_lora = false` with init_lora_weights = \"pissa_niter_{n}\": what it takes out of the base is drawn at \
             random, and whoever loads the file would draw something else; leave save_as_lora out, or use \"pissa\""
        ));
    }
    if !problems.is_empty() {
        return Err(LearnerError::Options(problems));
    }
    adalora::check_shrink(config, training.shrink_after_pruning)?;
    dropout(model, training.gradient_checkpointing)
}

/// The largest dropout of the active adapters, and of the model itself.
///
/// # Errors
/// Dropout together with gradient checkpointing: a layer that runs again would drop other inputs.
pub(crate) fn dropout<M: CausalModel>(model: &M, gradient_checkpointing: bool) -> Result<f64> {
    let mut dropout = model.dropout();
    for name in model.active_adapters() {
        dropout = dropout.max(model.adapter_config(name.as_ref())?.dropout());
    }
    if gradient_checkpointing && dropout > 0.0 {
        return Err(LearnerError::CheckpointedDropout { dropout });
    }
    Ok(dropout)
}

/// Checks that the adapter `name` can be trained.
///
/// # Errors
/// A name that is not attached, and an adapter that is frozen or not active.
pub(crate) fn trained<M: PeftModel>(model: &M, name: &str) -> Result<()> {
    let params = model.adapter_params(name)?;
    let active = model.active_adapters().iter().any(|active| *active == name);
    if active && params.iter().any(|(_, param)| param.requires_grad()) {
        return Ok(());
    }
    let mut problems = Problems::default();
    problems.push(match active {
        true => format!("the adapter `{name}` is frozen: load it to be trained, or set it trainable"),
        false => format!("the adapter `{name}` is not active: activate it before training"),
    });
    Err(LearnerError::Options(problems))
}
