//! `[training]`: Transformers' TrainingArguments.

use peft_burn::reader::Section;
use serde::{Deserialize, Serialize};

/// Transformers' TrainingArguments, as far as they apply.
///
/// ```
/// use peft_learner::config::{LrSchedulerType, TrainingConfig};
/// let training = TrainingConfig::new(400)
///     .with_batch_size(16)
///     .with_learning_rate(3e-3)
///     .with_lr_scheduler_type(LrSchedulerType::Linear)
///     .with_warmup_steps(20);
/// assert_eq!((training.max_steps, training.per_device_train_batch_size), (Some(400), 16));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingConfig {
    /// Optimiser steps; where given, it wins over `num_train_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Passes over the training rows.
    pub num_train_epochs: f64,
    /// Rows a micro-batch; on several devices each has micro-batches of its own.
    pub per_device_train_batch_size: usize,
    /// Micro-batches an optimiser step, on each device.
    pub gradient_accumulation_steps: usize,
    /// Rows of similar length share a micro-batch.
    pub group_by_length: bool,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// LoRA+: B matrices and all vectors (magnitudes, scales, biases) learn at this multiple of `learning_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// LoRA+: peak learning rate of LoRA on an embedding. Without `loraplus_lr_ratio` it means nothing.
    pub loraplus_lr_embedding: f64,
    /// Shape of the learning rate over the run.
    pub lr_scheduler_type: LrSchedulerType,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// AdamW's, decoupled, on every trainable tensor.
    pub weight_decay: f64,
    /// AdamW's first decay.
    pub adam_beta1: f64,
    /// AdamW's second decay.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// Bound on the norm of all gradients together; 0 = off.
    pub max_grad_norm: f64,
    /// Steps between evaluations; in a program 0 means at the end alone.
    pub eval_steps: usize,
    /// Steps between checkpoints; in a program 0 means none, unless the run is asked to end.
    pub save_steps: usize,
    /// Checkpoints kept; in a program 0 means all.
    pub save_total_limit: usize,
    /// Texts that the model continues every `eval_steps` steps and at the end, greedily, into `samples.jsonl`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sample_prompts: Vec<String>,
    /// At most so many tokens for each of them.
    pub sample_max_new_tokens: usize,
    /// Run decoder layers again in backward: more time, less memory, the same gradients.
    pub gradient_checkpointing: bool,
    /// AdaLoRA: take pruned triplets out of memory after the last mask, so that the steps after it cost less. Their rows
    /// are then no longer in the orthogonality term, where PEFT keeps counting them.
    pub shrink_after_pruning: bool,
    /// PiSSA and OLoRA: save the adapter as the plain LoRA of twice the rank that computes the same on the unchanged base.
    /// Otherwise it is saved as it is, and whoever loads it takes the same part out of the base again.
    pub save_as_lora: bool,
}

impl TrainingConfig {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let config = Self {
            max_steps: section.get("max_steps"),
            num_train_epochs: section.or("num_train_epochs", default.num_train_epochs),
            per_device_train_batch_size: section.or("per_device_train_batch_size", default.per_device_train_batch_size),
            gradient_accumulation_steps: section.or("gradient_accumulation_steps", default.gradient_accumulation_steps),
            group_by_length: section.or("group_by_length", default.group_by_length),
            learning_rate: section.or("learning_rate", default.learning_rate),
            loraplus_lr_ratio: section.get("loraplus_lr_ratio"),
            loraplus_lr_embedding: section.or("loraplus_lr_embedding", default.loraplus_lr_embedding),
            lr_scheduler_type: section.or("lr_scheduler_type", default.lr_scheduler_type),
            warmup_steps: section.or("warmup_steps", default.warmup_steps),
            weight_decay: section.or("weight_decay", default.weight_decay),
            adam_beta1: section.or("adam_beta1", default.adam_beta1),
            adam_beta2: section.or("adam_beta2", default.adam_beta2),
            adam_epsilon: section.or("adam_epsilon", default.adam_epsilon),
            max_grad_norm: section.or("max_grad_norm", default.max_grad_norm),
            eval_steps: section.or("eval_steps", default.eval_steps),
            save_steps: section.or("save_steps", default.save_steps),
            save_total_limit: section.or("save_total_limit", default.save_total_limit),
            sample_prompts: section.or("sample_prompts", default.sample_prompts),
            sample_max_new_tokens: section.or("sample_max_new_tokens", default.sample_max_new_tokens),
            gradient_checkpointing: section.or("gradient_checkpointing", default.gradient_checkpointing),
            shrink_after_pruning: section.or("shrink_after_pruning", default.shrink_after_pruning),
            save_as_lora: section.or("save_as_lora", default.save_as_lora),
        };
        section.finish();
        config
    }
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            max_steps: None,
            num_train_epochs: 3.0,
            per_device_train_batch_size: 4,
            gradient_accumulation_steps: 1,
            group_by_length: false,
            learning_rate: 2e-4,
            loraplus_lr_ratio: None,
            loraplus_lr_embedding: 1e-6,
            lr_scheduler_type: LrSchedulerType::default(),
            warmup_steps: 0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            eval_steps: 50,
            save_steps: 50,
            save_total_limit: 2,
            sample_prompts: Vec::new(),
            sample_max_new_tokens: 64,
            gradient_checkpointing: false,
            shrink_after_pruning: false,
            save_as_lora: true,
        }
    }
}

impl TrainingConfig {
    /// A run of `max_steps` optimiser steps; everything else is Transformers' or TRL's default.
    pub fn new(max_steps: usize) -> Self {
        Self { max_steps: Some(max_steps), ..Self::default() }
    }
}

peft_burn::setters!(TrainingConfig {
    /// Sets the number of optimiser steps, which wins over `num_train_epochs`.
    with_max_steps(steps: usize) { max_steps: Some(steps) }
    /// Sets the passes over the training rows, where `max_steps` is not set.
    with_num_train_epochs(epochs: f64) { num_train_epochs: epochs }
    /// Sets `per_device_train_batch_size`, the rows a micro-batch.
    with_batch_size(rows: usize) { per_device_train_batch_size: rows }
    /// Sets the micro-batches an optimiser step.
    with_gradient_accumulation_steps(micro_batches: usize) { gradient_accumulation_steps: micro_batches }
    /// Puts rows of similar length into one micro-batch, or not.
    with_group_by_length(on: bool) { group_by_length: on }
    /// Sets the peak learning rate.
    with_learning_rate(rate: f64) { learning_rate: rate }
    /// Sets LoRA+'s ratio: B matrices and all vectors learn at this multiple of `learning_rate`.
    with_loraplus_lr_ratio(ratio: f64) { loraplus_lr_ratio: Some(ratio) }
    /// Sets LoRA+'s peak learning rate of LoRA on an embedding.
    with_loraplus_lr_embedding(rate: f64) { loraplus_lr_embedding: rate }
    /// Sets the shape of the learning rate over the run.
    with_lr_scheduler_type(shape: LrSchedulerType) { lr_scheduler_type: shape }
    /// Sets the steps over which the learning rate rises from 0.
    with_warmup_steps(steps: usize) { warmup_steps: steps }
    /// Sets AdamW's weight decay.
    with_weight_decay(decay: f64) { weight_decay: decay }
    /// Sets AdamW's first decay.
    with_adam_beta1(beta: f64) { adam_beta1: beta }
    /// Sets AdamW's second decay.
    with_adam_beta2(beta: f64) { adam_beta2: beta }
    /// Sets AdamW's epsilon.
    with_adam_epsilon(epsilon: f64) { adam_epsilon: epsilon }
    /// Bounds the norm of all gradients together; 0 is off.
    with_max_grad_norm(norm: f64) { max_grad_norm: norm }
    /// Sets the steps between evaluations; 0 means at the end alone.
    with_eval_steps(steps: usize) { eval_steps: steps }
    /// Sets the steps between checkpoints; 0 means none, unless the run is asked to end.
    with_save_steps(steps: usize) { save_steps: steps }
    /// Sets how many checkpoints are kept; 0 means all.
    with_save_total_limit(checkpoints: usize) { save_total_limit: checkpoints }
    /// Runs decoder layers again in backward, or keeps what it needs.
    with_gradient_checkpointing(on: bool) { gradient_checkpointing: on }
    /// Takes AdaLoRA's pruned triplets out of memory after the last mask, or not.
    with_shrink_after_pruning(on: bool) { shrink_after_pruning: on }
    /// Saves PiSSA and OLoRA as plain LoRA, or as they are.
    with_save_as_lora(on: bool) { save_as_lora: on }
});

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LrSchedulerType {
    /// Stays at the peak.
    Constant,
    /// Falls to 0 in a line.
    Linear,
    /// Falls to 0 along half a cosine.
    #[default]
    Cosine,
}
