//! A LoRA configuration in one expression.

use super::LoraConfig;
use crate::config::{Bias, InitLoraWeights, Patterns, TokenIndices};
use crate::methods::builder::{common_setters, exclude_setter, layer_setters};

impl LoraConfig {
    /// LoRA of rank `r`; everything else is PEFT's default.
    ///
    /// ```
    /// use peft_burn::LoraConfig;
    /// let config = LoraConfig::new(16).with_alpha(32.0).with_target_modules(["q_proj", "v_proj"]);
    /// assert_eq!((config.r, config.lora_alpha), (16, 32.0));
    /// ```
    pub fn new(r: usize) -> Self {
        Self { r, ..Self::default() }
    }
}

common_setters!(LoraConfig);
layer_setters!(LoraConfig);
exclude_setter!(LoraConfig);
crate::setters!(LoraConfig {
    /// Sets `lora_alpha`, the numerator of the scaling.
    with_alpha(alpha: f64) { lora_alpha: alpha }
    /// Sets the probability of dropping an element of the adapter's input in training.
    with_dropout(probability: f64) { lora_dropout: probability }
    /// Trains the norms of the adapted weight's rows too (DoRA), or not.
    with_dora(on: bool) { use_dora: on }
    /// Scales by `alpha / sqrt(r)` (rsLoRA), or by `alpha / r`.
    with_rslora(on: bool) { use_rslora: on }
    /// Gives B a bias, or none.
    with_lora_bias(on: bool) { lora_bias: on }
    /// Sets which biases of the base model are trained.
    with_bias(bias: Bias) { bias: bias }
    /// Sets the initial values.
    with_init(init: InitLoraWeights) { init_lora_weights: init }
    /// Sets ranks that differ from `r`: `[("k_proj", 4)]`.
    with_rank_pattern(ranks: impl Into<Patterns<usize>>) { rank_pattern: ranks.into() }
    /// Sets alphas that differ from `lora_alpha`: `[("k_proj", 8.0)]`.
    with_alpha_pattern(alphas: impl Into<Patterns<f64>>) { alpha_pattern: alphas.into() }
    /// Sets the rows of embeddings that are trained themselves.
    with_trainable_token_indices(tokens: TokenIndices) { trainable_token_indices: Some(tokens) }
});
