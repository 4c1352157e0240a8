//! An AdaLoRA configuration in one expression.

use super::AdaLoraConfig;
use crate::config::{Bias, InitLoraWeights};
use crate::methods::builder::{common_setters, exclude_setter, layer_setters};

impl AdaLoraConfig {
    /// AdaLoRA that begins with rank `init_r` everywhere and keeps `target_r` on average; everything else is PEFT's default.
    ///
    /// ```
    /// use peft_burn::AdaLoraConfig;
    /// let config = AdaLoraConfig::new(12, 4).with_phases(100, 200, 10).with_target_modules("all-linear");
    /// assert_eq!((config.init_r, config.target_r, config.tfinal), (12, 4, 200));
    /// ```
    pub fn new(init_r: usize, target_r: usize) -> Self {
        Self { init_r, target_r, ..Self::default() }
    }

    /// Sets the schedule: `tinit` steps at the full rank, then a pruning every `delta_t` steps, and `tfinal` steps at the
    /// final ranks.
    pub fn with_phases(self, tinit: usize, tfinal: usize, delta_t: usize) -> Self {
        Self { tinit, tfinal, delta_t, ..self }
    }
}

common_setters!(AdaLoraConfig);
layer_setters!(AdaLoraConfig);
exclude_setter!(AdaLoraConfig);
crate::setters!(AdaLoraConfig {
    /// Sets the number of optimiser steps of the whole run.
    with_total_step(steps: usize) { total_step: Some(steps) }
    /// Sets `lora_alpha`, the scaling.
    with_alpha(alpha: f64) { lora_alpha: alpha }
    /// Sets the probability of dropping an element of the adapter's input in training.
    with_dropout(probability: f64) { lora_dropout: probability }
    /// Sets the weight of the orthogonality term in the training loss.
    with_orth_reg_weight(weight: f64) { orth_reg_weight: weight }
    /// Sets which biases of the base model are trained.
    with_bias(bias: Bias) { bias: bias }
    /// Sets the initial values.
    with_init(init: InitLoraWeights) { init_lora_weights: init }
});
