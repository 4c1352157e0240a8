//! A LoHa configuration in one expression.

use super::LoHaConfig;
use crate::config::Patterns;
use crate::methods::builder::{common_setters, exclude_setter, layer_setters};

impl LoHaConfig {
    /// LoHa with factors of rank `r`; everything else is PEFT's default.
    ///
    /// ```
    /// use peft_burn::LoHaConfig;
    /// let config = LoHaConfig::new(8).with_alpha(16.0).with_target_modules(["q_proj", "v_proj"]);
    /// assert_eq!((config.r, config.alpha), (8, 16.0));
    /// ```
    pub fn new(r: usize) -> Self {
        Self { r, ..Self::default() }
    }
}

common_setters!(LoHaConfig);
layer_setters!(LoHaConfig);
exclude_setter!(LoHaConfig);
crate::setters!(LoHaConfig {
    /// Sets `alpha`, the numerator of the scaling.
    with_alpha(alpha: f64) { alpha: alpha }
    /// Sets the probability of dropping a row of the update in training.
    with_rank_dropout(probability: f64) { rank_dropout: probability }
    /// Sets the probability of leaving a module's update out of a training step.
    with_module_dropout(probability: f64) { module_dropout: probability }
    /// Sets ranks that differ from `r`: `[("k_proj", 4)]`.
    with_rank_pattern(ranks: impl Into<Patterns<usize>>) { rank_pattern: ranks.into() }
    /// Sets alphas that differ from `alpha`: `[("k_proj", 8.0)]`.
    with_alpha_pattern(alphas: impl Into<Patterns<f64>>) { alpha_pattern: alphas.into() }
});
