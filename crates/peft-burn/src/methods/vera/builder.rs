//! A VeRA configuration in one expression.

use super::VeraConfig;
use crate::config::Bias;
use crate::methods::builder::{common_setters, layer_setters};

impl VeraConfig {
    /// VeRA with a shared pair of rank `r`; everything else is PEFT's default.
    ///
    /// ```
    /// use peft_burn::VeraConfig;
    /// let config = VeraConfig::new(256).with_save_projection(false).with_target_modules(["q_proj", "v_proj"]);
    /// assert_eq!((config.r, config.save_projection), (256, false));
    /// ```
    pub fn new(r: usize) -> Self {
        Self { r, ..Self::default() }
    }
}

common_setters!(VeraConfig);
layer_setters!(VeraConfig);
crate::setters!(VeraConfig {
    /// Sets the seed of the shared pair.
    with_projection_prng_key(key: u64) { projection_prng_key: key }
    /// Saves the shared pair with the adapter, or draws it again on loading.
    with_save_projection(on: bool) { save_projection: on }
    /// Sets the initial value of λ_d.
    with_d_initial(value: f64) { d_initial: value }
    /// Sets the probability of dropping an element of the adapter's input in training.
    with_dropout(probability: f64) { vera_dropout: probability }
    /// Sets which biases of the base model are trained.
    with_bias(bias: Bias) { bias: bias }
});
