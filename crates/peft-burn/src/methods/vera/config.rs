//! VeRA.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::projection::{PROJECTION_NAMES, PairKey};
use crate::config::{Bias, OneOrMany, OtherKeys, TargetModules, TaskType, checks, shared_keys};
use crate::methods::traits::MethodConfig;
use crate::modules::ModuleInfo;

/// `peft_type` `VERA`: `y = W·x + λ_b ∘ B·(λ_d ∘ A·x)` with one frozen random pair A, B for the whole model, and the
/// vectors λ learned for each module. PEFT's keys and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VeraConfig {
    /// Rank of the shared pair.
    pub r: usize,
    /// Seed of the shared pair; equal keys give equal pairs, the ones PEFT makes.
    pub projection_prng_key: u64,
    /// Save the shared pair with the adapter, rather than draw it again on loading.
    pub save_projection: bool,
    /// Probability of dropping an element of the adapter's input in training.
    pub vera_dropout: f64,
    /// Initial value of λ_d.
    pub d_initial: f64,
    /// Which modules get an adapter.
    pub target_modules: TargetModules,
    /// Keep only the modules of these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// Name of the list of layers that `layers_to_transform` counts in; any, if absent.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Which biases of the base model are trained.
    pub bias: Bias,
    /// `true`: λ_b zero, λ_d `d_initial`. `false`: λ_b one, λ_d standard normal.
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

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            r: 256,
            projection_prng_key: 0,
            save_projection: true,
            vera_dropout: 0.0,
            d_initial: 0.1,
            target_modules: TargetModules::ModelDefault,
            layers_to_transform: None,
            layers_pattern: None,
            bias: Bias::None,
            init_weights: true,
            modules_to_save: None,
            task_type: None,
            base_model_name_or_path: None,
            other: OtherKeys::new(&features()),
        }
    }
}

/// Features of PEFT's VeRA that this crate does not implement, with the value that leaves them off.
fn features() -> [(&'static str, Value); 1] {
    [("fan_in_fan_out", json!(false))]
}

impl MethodConfig for VeraConfig {
    fn peft_type(&self) -> &'static str {
        "VERA"
    }

    fn display_name(&self) -> &'static str {
        "VeRA"
    }

    shared_keys!(layers_to_transform, layers_pattern, bias);

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(checks::rank("r", self.r));
        problems.extend(checks::dropout("vera_dropout", self.vera_dropout));
        problems.extend(checks::finite("d_initial", self.d_initial));
        problems.extend(self.shared().problems());
        problems.extend(checks::bias(self.bias, Bias::LoraOnly, "vera_only"));
        problems.extend(self.other.problems(&features()));
        problems
    }

    fn parameters(&self, module: &ModuleInfo) -> usize {
        module.out_features + self.r
    }

    fn tensor_prefix(&self) -> &'static str {
        "vera_"
    }

    fn rank_tensors(&self) -> Vec<&'static str> {
        vec!["vera_lambda_d"]
    }

    fn tensors_of_no_module(&self) -> &'static [&'static str] {
        &PROJECTION_NAMES
    }

    fn shared_pair(&self, max_in: usize, max_out: usize) -> Option<PairKey> {
        Some(PairKey { key: self.projection_prng_key, r: self.r, max_in, max_out })
    }

    fn saves_pair(&self) -> bool {
        self.save_projection
    }

    fn dropouts(&self) -> Vec<(&'static str, f64)> {
        vec![("vera_dropout", self.vera_dropout)]
    }
}
