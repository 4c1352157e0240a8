//! `[training]`: Transformers' TrainingArguments.

use peft_burn::reader::Section;
use serde::{Deserialize, Serialize};

/// Transformers' TrainingArguments, as far as they apply.
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
