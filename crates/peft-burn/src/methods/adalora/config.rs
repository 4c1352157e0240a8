//! AdaLoRA.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::config::numbers::whole_as_integer;
use crate::config::{
    Bias, InitLoraWeights, ModuleNames, Object, OneOrMany, OtherKeys, TargetModules, TaskType, checks, shared_keys,
};
use crate::error::{PeftError, Result};
use crate::methods::lora::features as lora_features;
use crate::methods::traits::{MethodConfig, families};
use crate::modules::ModuleInfo;

/// `peft_type` `ADALORA`: `y = W·x + scaling · B·diag(E)·A·x`, where training prunes entries of E from `init_r` a
/// module down to `target_r` a module on average. PEFT's keys and defaults.
///
/// Training has three phases: steps 1 to `tinit` at the full rank, then pruning until step `total_step - tfinal`,
/// then `tfinal` steps at the final ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdaLoraConfig {
    /// Rank of every module before pruning.
    pub init_r: usize,
    /// Average rank after pruning.
    pub target_r: usize,
    /// Steps before pruning starts.
    pub tinit: usize,
    /// Steps after pruning has ended.
    pub tfinal: usize,
    /// Steps from one pruning to the next.
    #[serde(rename = "deltaT")]
    pub delta_t: usize,
    /// Smoothing of the sensitivities.
    pub beta1: f64,
    /// Smoothing of their uncertainty.
    pub beta2: f64,
    /// Weight of the orthogonality term in the training loss.
    pub orth_reg_weight: f64,
    /// Steps of the whole training; the trainer fills it in if absent.
    pub total_step: Option<usize>,
    /// Which entries of E survived, by `<module path>.lora_E`; absent before the first pruning.
    #[serde(deserialize_with = "masks")]
    pub rank_pattern: Option<BTreeMap<String, Vec<bool>>>,
    /// The scaling, if above 0; else the scaling is the rank.
    #[serde(serialize_with = "whole_as_integer")]
    pub lora_alpha: f64,
    /// Probability of dropping an element of the adapter's input in training.
    pub lora_dropout: f64,
    /// Which modules get an adapter.
    pub target_modules: TargetModules,
    /// Modules to leave out of `target_modules`.
    pub exclude_modules: Option<ModuleNames>,
    /// Keep only the modules of these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// Name of the list of layers that `layers_to_transform` counts in; any, if absent.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Which biases of the base model are trained.
    pub bias: Bias,
    /// `Default`: A and B normal with standard deviation 0.02, E zero. `Random`: all three standard normal.
    pub init_lora_weights: InitLoraWeights,
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

impl Default for AdaLoraConfig {
    fn default() -> Self {
        let notes = [("megatron_core", json!("megatron.core")), ("qalora_group_size", json!(16)), ("r", json!(8))];
        Self {
            init_r: 12,
            target_r: 8,
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            total_step: None,
            rank_pattern: None,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::ModelDefault,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            bias: Bias::None,
            init_lora_weights: InitLoraWeights::Default,
            modules_to_save: None,
            task_type: None,
            base_model_name_or_path: None,
            other: OtherKeys::new(&[&features()[..], &notes[..]].concat()),
        }
    }
}

/// Features of PEFT's LoRA that AdaLoRA lacks, with the value that leaves them off.
fn features() -> Vec<(&'static str, Value)> {
    let no = ["lora_bias", "use_dora", "use_rslora"].map(|key| (key, json!(false)));
    let other = [("alpha_pattern", json!({})), ("trainable_token_indices", Value::Null)];
    lora_features().into_iter().chain(no).chain(other).collect()
}

impl AdaLoraConfig {
    /// The factor of B·diag(E)·A·x, before the division by the rank: `lora_alpha`, or `init_r` if that is
    /// not above 0.
    pub fn scaling(&self) -> f64 {
        if self.lora_alpha > 0.0 { self.lora_alpha } else { self.init_r as f64 }
    }

    /// Which of the `init_r` entries of E survived at `path`, once pruning has begun.
    pub fn mask_for(&self, path: &str) -> Option<&[bool]> {
        Some(self.rank_pattern.as_ref()?.get(&format!("{path}.lora_E"))?.as_slice())
    }

    /// `total_step`.
    ///
    /// # Errors
    /// [`PeftError::Config`] where it is not set, with the way to give it.
    pub fn require_total_step(&self) -> Result<usize> {
        self.total_step.ok_or_else(|| PeftError::Config {
            origin: "ADALORA configuration".into(),
            problems: vec![
                "total_step is missing: the pruning schedule needs the number of optimiser steps of the whole \
                 training; set it, or let the trainer fill it in"
                    .into(),
            ],
        })
    }

    /// The step of the last mask, after which the ranks are final: `total_step - tfinal`.
    ///
    /// # Errors
    /// `total_step` is missing.
    pub fn last_mask(&self) -> Result<usize> {
        Ok(self.require_total_step()?.saturating_sub(self.tfinal))
    }

    /// The three phases in steps, if they leave none to prune in.
    pub(crate) fn schedule_problem(&self) -> Option<String> {
        let Self { tinit, tfinal, .. } = *self;
        let total = self.total_step?;
        if total == 0 {
            return Some("total_step = 0: the number of optimiser steps, 1 or more".into());
        }
        if tinit + tfinal < total {
            return None;
        }
        let end = total as i64 - tfinal as i64;
        Some(format!(
            "tinit = {tinit}, tfinal = {tfinal} and total_step = {total} leave no step to prune in:\n  \
             full rank    steps 1 to {tinit} (tinit)\n  \
             pruning      from step {} to step {end} (total_step - tfinal), which is none\n  \
             final ranks  the {tfinal} steps after that (tfinal counts the steps after pruning)\n\
             raise total_step to {} or more, or lower tinit + tfinal below {total}, for example to tinit = {} and \
             tfinal = {}",
            tinit + 1,
            tinit + tfinal + 1,
            total / 10,
            total * 3 / 10,
        ))
    }
}

impl MethodConfig for AdaLoraConfig {
    fn peft_type(&self) -> &'static str {
        "ADALORA"
    }

    fn display_name(&self) -> &'static str {
        "AdaLoRA"
    }

    shared_keys!(exclude_modules, layers_to_transform, layers_pattern, bias);

    fn default_targets(&self, model_type: &str) -> Option<&'static [&'static str]> {
        // PEFT's table for AdaLoRA has no Mistral.
        (families::KNOWN.contains(&model_type) && model_type != "mistral").then_some(&["q_proj", "v_proj"])
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(checks::rank("init_r", self.init_r));
        problems.extend(checks::rank("target_r", self.target_r));
        if self.init_r < self.target_r {
            problems.push(format!(
                "init_r = {} is below target_r = {}: AdaLoRA only takes ranks away; raise init_r or lower target_r",
                self.init_r, self.target_r
            ));
        }
        if self.delta_t == 0 {
            problems.push("deltaT = 0: the number of steps from one pruning to the next, 1 or more".into());
        }
        for (key, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(beta > 0.0 && beta < 1.0) {
                problems.push(format!("{key} = {beta}: a number between 0 and 1"));
            }
        }
        if self.orth_reg_weight.is_nan() || self.orth_reg_weight < 0.0 {
            problems.push(format!("orth_reg_weight = {}: 0 or more", self.orth_reg_weight));
        }
        problems.extend(self.schedule_problem());
        problems.extend(checks::finite("lora_alpha", self.lora_alpha));
        problems.extend(checks::dropout("lora_dropout", self.lora_dropout));
        problems.extend(self.shared().problems());
        problems.extend(checks::bias(self.bias, Bias::VeraOnly, "lora_only"));
        if !matches!(self.init_lora_weights, InitLoraWeights::Default | InitLoraWeights::Random) {
            problems.push("init_lora_weights: AdaLoRA knows true and false only".into());
        }
        for (name, mask) in self.rank_pattern.iter().flatten() {
            if mask.len() != self.init_r {
                problems.push(format!("rank_pattern.`{name}` has {} entries, init_r is {}", mask.len(), self.init_r));
            }
        }
        problems.extend(self.other.problems(&features()));
        problems
    }

    fn parameters(&self, module: &ModuleInfo) -> usize {
        self.init_r * (module.in_features + module.out_features + 1)
    }

    fn tensor_prefix(&self) -> &'static str {
        "lora_"
    }

    fn factors(&self) -> &'static [(&'static str, &'static str)] {
        &[("lora_A", "lora_B")]
    }

    fn prunes(&self) -> bool {
        true
    }

    fn total_step(&self) -> Option<usize> {
        self.total_step
    }

    fn set_total_step(&mut self, steps: usize) {
        self.total_step = Some(steps);
    }

    fn origin(&self) -> Option<(&InitLoraWeights, &OtherKeys)> {
        Some((&self.init_lora_weights, &self.other))
    }

    fn origin_mut(&mut self) -> Option<(&mut InitLoraWeights, &mut OtherKeys)> {
        Some((&mut self.init_lora_weights, &mut self.other))
    }

    fn dropouts(&self) -> Vec<(&'static str, f64)> {
        vec![("lora_dropout", self.lora_dropout)]
    }

    fn frozen_parameters(&self) -> usize {
        // PEFT keeps the rank of a module as a parameter of one element.
        1
    }

    fn unmatched(&self, _: &[ModuleInfo], adapted: &[ModuleInfo]) -> Vec<String> {
        let known: Vec<_> = adapted.iter().map(|module| format!("{}.lora_E", module.path)).collect();
        let masks = self.rank_pattern.iter().flatten().map(|(name, _)| name);
        masks.filter(|name| !known.contains(name)).map(|name| format!("rank_pattern: `{name}`")).collect()
    }

    fn useless_keys(&self, read: &Object) -> Option<String> {
        // PEFT itself writes `r: 8` beside the ranks that count.
        let sets_r = read.get("r").is_some_and(|r| *r != 8 || !read.contains_key("init_r"));
        sets_r.then(|| "r is not used by ADALORA; set init_r and target_r".into())
    }

    fn make_steps_alike(&mut self, steps: usize) {
        // A mask at every step but the first and the last, down to a third of the ranks.
        self.target_r = (self.init_r / 3).max(1);
        (self.tinit, self.tfinal, self.delta_t, self.total_step) = (1, 1, 1, Some(steps.max(4)));
    }
}

/// Masks of booleans, or of 0 and 1 as older files have them.
fn masks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, Vec<bool>>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a list of true and false for each module")]
    enum Flag {
        Bool(bool),
        Number(f64),
    }
    let on = |flag: &Flag| match flag {
        Flag::Bool(on) => *on,
        Flag::Number(number) => *number != 0.0,
    };
    let masks = Option::<BTreeMap<String, Vec<Flag>>>::deserialize(deserializer)?;
    Ok(masks.map(|masks| masks.into_iter().map(|(name, mask)| (name, mask.iter().map(on).collect())).collect()))
}
