//! LoHa's configuration.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::numbers::{whole_as_integer, whole_values_as_integers};
use crate::config::patterns::unmatched_patterns;
use crate::config::{ModuleNames, OneOrMany, OtherKeys, Patterns, TargetModules, TaskType, checks, shared_keys};
use crate::methods::traits::MethodConfig;
use crate::modules::ModuleInfo;

/// `peft_type` `LOHA`: `y = W·x + alpha / r · ((A₁·B₁) ∘ (A₂·B₂))·x`, which reaches the rank `r²` with the parameters of
/// two updates of rank `r`. PEFT's keys and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoHaConfig {
    /// Rank of each of the two factors.
    pub r: usize,
    /// Numerator of the scaling `alpha / r`.
    #[serde(serialize_with = "whole_as_integer")]
    pub alpha: f64,
    /// Probability of dropping a row of the update, an output, in training; the others are scaled up.
    pub rank_dropout: f64,
    /// Probability of leaving a module's update out of a training step.
    pub module_dropout: f64,
    /// Which modules get an adapter.
    pub target_modules: TargetModules,
    /// Modules to leave out of `target_modules`.
    pub exclude_modules: Option<ModuleNames>,
    /// Keep only the modules of these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// Name of the list of layers that `layers_to_transform` counts in; any, if absent.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Ranks that differ from `r`.
    pub rank_pattern: Patterns<usize>,
    /// Values that differ from `alpha`.
    #[serde(serialize_with = "whole_values_as_integers")]
    pub alpha_pattern: Patterns<f64>,
    /// `true`: the update begins as zero. `false`: all four matrices are random.
    pub init_weights: bool,
    /// Modules that are trained and saved whole.
    pub modules_to_save: Option<Vec<String>>,
    /// The task that the model is trained for.
    pub task_type: Option<TaskType>,
    /// Where the base model came from.
    pub base_model_name_or_path: Option<String>,
    /// PEFT's other keys.
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl Default for LoHaConfig {
    fn default() -> Self {
        Self {
            r: 8,
            alpha: 8.0,
            rank_dropout: 0.0,
            module_dropout: 0.0,
            target_modules: TargetModules::ModelDefault,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            init_weights: true,
            modules_to_save: None,
            task_type: None,
            base_model_name_or_path: None,
            other: OtherKeys::new(&features()),
        }
    }
}

/// Features of PEFT's LoHa that are for convolutions, with the value that leaves them off.
fn features() -> [(&'static str, Value); 1] {
    [("use_effective_conv2d", json!(false))]
}

impl LoHaConfig {
    /// The rank of the module at `path`.
    pub fn rank_for(&self, path: &str) -> usize {
        self.rank_pattern.lookup(path).copied().unwrap_or(self.r)
    }

    /// The factor of the product at `path`: `alpha / r`.
    pub fn scaling_for(&self, path: &str) -> f64 {
        self.alpha_pattern.lookup(path).copied().unwrap_or(self.alpha) / self.rank_for(path) as f64
    }
}

impl MethodConfig for LoHaConfig {
    fn peft_type(&self) -> &'static str {
        "LOHA"
    }

    fn display_name(&self) -> &'static str {
        "LoHa"
    }

    shared_keys!(exclude_modules, layers_to_transform, layers_pattern);

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(checks::rank("r", self.r));
        problems.extend(checks::finite("alpha", self.alpha));
        problems.extend(checks::dropout("rank_dropout", self.rank_dropout));
        problems.extend(checks::dropout("module_dropout", self.module_dropout));
        problems.extend(self.shared().problems());
        problems.extend(checks::patterns(&self.rank_pattern, &self.alpha_pattern));
        problems.extend(self.other.problems(&features()));
        problems
    }

    fn parameters(&self, module: &ModuleInfo) -> usize {
        2 * self.rank_for(&module.path) * (module.in_features + module.out_features)
    }

    fn tensor_prefix(&self) -> &'static str {
        "hada_"
    }

    fn factors(&self) -> &'static [(&'static str, &'static str)] {
        &[("hada_w1_b", "hada_w1_a"), ("hada_w2_b", "hada_w2_a")]
    }

    fn saved_rank(&self, path: &str) -> Option<usize> {
        Some(self.rank_for(path))
    }

    fn dropouts(&self) -> Vec<(&'static str, f64)> {
        vec![("rank_dropout", self.rank_dropout), ("module_dropout", self.module_dropout)]
    }

    fn unmatched(&self, _: &[ModuleInfo], adapted: &[ModuleInfo]) -> Vec<String> {
        unmatched_patterns(&self.rank_pattern, &self.alpha_pattern, adapted)
    }
}
