//! An (IA)³ configuration in one expression.

use super::Ia3Config;
use crate::config::ModuleNames;
use crate::methods::builder::{common_setters, exclude_setter};

impl Ia3Config {
    /// (IA)³ with PEFT's defaults.
    ///
    /// ```
    /// use peft_burn::Ia3Config;
    /// let config = Ia3Config::new().with_target_modules(["k_proj", "down_proj"]).with_feedforward_modules(["down_proj"]);
    /// assert!(config.is_feedforward("model.layers.0.mlp.down_proj"));
    /// ```
    pub fn new() -> Self {
        Self::default()
    }
}

common_setters!(Ia3Config);
exclude_setter!(Ia3Config);
crate::setters!(Ia3Config {
    /// Sets the modules whose input is scaled rather than their output.
    with_feedforward_modules(names: impl Into<ModuleNames>) { feedforward_modules: Some(names.into()) }
});
