//! Values that have the right type but cannot be run.

use super::{QuantizationKind, RunConfig, TrainingConfig};
use crate::data::MOST_ROWS_A_STEP;
use crate::error::Problems;

/// Adds every impossible value of `config` to `problems`.
pub(super) fn validate(config: &RunConfig, problems: &mut Problems) {
    let RunConfig { data, training, model, .. } = config;
    if model.double_quantization && !model.quantization.is_some_and(|kind| kind.is_four_bit()) {
        problems.push(
            "`model.double_quantization` is for `model.quantization` nf4 or fp4; set one of them, or leave it out",
        );
    }
    if !model.skip_modules.is_empty() && matches!(model.quantization, None | Some(QuantizationKind::None)) {
        problems.push("`model.skip_modules` has no meaning without `model.quantization`; set it, or leave it out");
    }
    // One token alone predicts nothing.
    require(problems, data.max_length >= 2, "data.max_length", "at least 2 tokens", &data.max_length);
    // In a program 0 means none, or all.
    let counts = [
        ("eval_steps", training.eval_steps),
        ("save_steps", training.save_steps),
        ("save_total_limit", training.save_total_limit),
    ];
    for (key, count) in counts {
        require(problems, count > 0, &format!("training.{key}"), "at least 1", &count);
    }
    check_training("training.", training, problems);
    if training.group_by_length && !data.shuffle {
        problems.push(
            "`training.group_by_length` draws rows at random, and `data.shuffle = false` asks for file order; \
             change one",
        );
    }
    if data.packing && training.group_by_length {
        problems.push(
            "`data.packing` and `training.group_by_length` exclude each other: packed rows are about equally long \
             already; switch one off",
        );
    }
}

impl TrainingConfig {
    /// Every impossible value.
    pub(crate) fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        check_training("", self, &mut problems);
        problems
    }
}

fn require(problems: &mut Problems, holds: bool, key: &str, must: &str, found: &dyn std::fmt::Display) {
    if !holds {
        problems.push(format!("`{key}` is {found}; it must be {must}"));
    }
}

/// Adds every impossible value of `training` to `problems`; `prefix` goes before its key.
fn check_training(prefix: &str, training: &TrainingConfig, problems: &mut Problems) {
    let mut require = |holds: bool, key: &str, must: &str, found: &dyn std::fmt::Display| {
        require(problems, holds, &format!("{prefix}{key}"), must, found);
    };
    let counts = [
        ("max_steps", training.max_steps.unwrap_or(1)),
        ("per_device_train_batch_size", training.per_device_train_batch_size),
        ("gradient_accumulation_steps", training.gradient_accumulation_steps),
    ];
    for (key, count) in counts {
        require(count > 0, key, "at least 1", &count);
    }
    let rows = training.per_device_train_batch_size.saturating_mul(training.gradient_accumulation_steps);
    let must = format!("at most {MOST_ROWS_A_STEP}");
    require(rows <= MOST_ROWS_A_STEP, "per_device_train_batch_size` times `gradient_accumulation_steps", &must, &rows);
    require(
        training.sample_prompts.is_empty() || training.sample_max_new_tokens > 0,
        "sample_max_new_tokens",
        "at least 1",
        &training.sample_max_new_tokens,
    );
    let rate = training.learning_rate;
    require((0.0..=1.0).contains(&rate), "learning_rate", "between 0 and 1", &rate);
    for (key, beta) in [("adam_beta1", training.adam_beta1), ("adam_beta2", training.adam_beta2)] {
        require((0.0..1.0).contains(&beta), key, "at least 0 and below 1", &beta);
    }
    let above = [
        ("num_train_epochs", training.num_train_epochs),
        ("adam_epsilon", training.adam_epsilon),
        ("loraplus_lr_ratio", training.loraplus_lr_ratio.unwrap_or(1.0)),
    ];
    for (key, value) in above {
        require(value > 0.0 && value.is_finite(), key, "above 0", &value);
    }
    let not_below_zero = [
        ("weight_decay", training.weight_decay),
        ("max_grad_norm", training.max_grad_norm),
        ("loraplus_lr_embedding", training.loraplus_lr_embedding),
    ];
    for (key, value) in not_below_zero {
        require(value >= 0.0 && value.is_finite(), key, "0 (off) or above", &value);
    }
    if let Some(steps) = training.max_steps {
        let must = format!("at most `{prefix}max_steps`, {steps}");
        require(training.warmup_steps <= steps, "warmup_steps", &must, &training.warmup_steps);
    }
}
