//! The behaviour of a method's configuration.

use std::fmt::Debug;

use serde::Serialize;

use super::families;
use crate::config::{
    Bias, InitLoraWeights, ModuleNames, Object, OneOrMany, OtherKeys, Shared, SharedMut, TargetModules, TaskType,
    TokenIndices, keys,
};
use crate::error::{PeftError, Result};
use crate::methods::vera::PairKey;
use crate::modules::ModuleInfo;

/// The kind of change of a weight, which decides how adapters are combined and converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It adds an update of low rank.
    LowRank,
    /// It changes the weight's direction by an update of low rank, and its norms (DoRA).
    Direction,
    /// It multiplies rows or columns by a vector ((IA)³).
    Vectors,
}

/// A configuration of some method: PEFT's keys, and what they mean.
pub trait MethodConfig: ToObject + Debug {
    /// The method's name in files.
    fn peft_type(&self) -> &'static str;

    /// The method in the words of its users: DoRA and rsLoRA are LoRA to PEFT.
    fn display_name(&self) -> &'static str;

    /// The keys that methods have in common.
    fn shared(&self) -> Shared<'_>;

    /// As [`Self::shared`], to change.
    fn shared_mut(&mut self) -> SharedMut<'_>;

    /// The faults, each entry with its key and the way out.
    fn problems(&self) -> Vec<String>;

    /// Trainable parameters that the adapter adds to a module.
    fn parameters(&self, module: &ModuleInfo) -> usize;

    /// How the names of the method's tensors begin, after the module's path.
    fn tensor_prefix(&self) -> &'static str;

    /// Pairs of tensors of one module, A `[r, in]` and B `[out, r]` by name, that have a rank in common.
    fn factors(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Tensors of a module whose first size is the rank.
    fn rank_tensors(&self) -> Vec<&'static str> {
        self.factors().iter().map(|(a, _)| *a).collect()
    }

    /// The rank of the module at `path` in a file, where the configuration says it.
    fn saved_rank(&self, path: &str) -> Option<usize> {
        let _ = path;
        None
    }

    /// Tensors of a file that belong to no module.
    fn tensors_of_no_module(&self) -> &'static [&'static str] {
        &[]
    }

    /// The frozen pair that the method's layers of a model share, where no layer is larger than `max_in` and `max_out`.
    fn shared_pair(&self, max_in: usize, max_out: usize) -> Option<PairKey> {
        let _ = (max_in, max_out);
        None
    }

    /// Whether a file holds that pair, by the names of [`Self::tensors_of_no_module`].
    fn saves_pair(&self) -> bool {
        false
    }

    /// Whether training takes triplets away ([`crate::adalora`]).
    fn prunes(&self) -> bool {
        false
    }

    /// The number of optimiser steps of the whole training, of methods whose phases follow from it.
    fn total_step(&self) -> Option<usize> {
        None
    }

    /// Sets [`Self::total_step`]; methods without such a key stay as they are.
    fn set_total_step(&mut self, steps: usize) {
        let _ = steps;
    }

    /// How the adapter began, and PEFT's keys that are kept as they are, of methods that have both.
    fn origin(&self) -> Option<(&InitLoraWeights, &OtherKeys)> {
        None
    }

    /// As [`Self::origin`], to change.
    fn origin_mut(&mut self) -> Option<(&mut InitLoraWeights, &mut OtherKeys)> {
        None
    }

    /// Probabilities of dropping something in training, by their keys.
    fn dropouts(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Parameters of an adapted module that are not trained and PEFT counts.
    fn frozen_parameters(&self) -> usize {
        0
    }

    /// The kind of change of a weight.
    fn change(&self) -> Change {
        Change::LowRank
    }

    /// Whether the method adapts embeddings besides linear modules.
    fn adapts_embeddings(&self) -> bool {
        false
    }

    /// The kinds of modules that the method adapts, in words.
    fn adapts(&self) -> &'static str {
        "linear modules only"
    }

    /// PEFT's default for `target_modules` in models of type `model_type`.
    fn default_targets(&self, model_type: &str) -> Option<&'static [&'static str]> {
        families::KNOWN.contains(&model_type).then_some(&["q_proj", "v_proj"])
    }

    /// Fills in what PEFT takes from the model where the configuration leaves it open, beside the targets. `adapted` are
    /// the modules that get an adapter. Returns the key that has no default for this type of model.
    fn complete(&mut self, model_type: &str, adapted: &[ModuleInfo]) -> Result<(), &'static str> {
        let _ = (model_type, adapted);
        Ok(())
    }

    /// Entries of keys of the method's own that narrow or refine the selection and match none of `adapted`, each with its
    /// key and what was likely meant ([`crate::targets`] knows the names of `modules`).
    fn unmatched(&self, modules: &[ModuleInfo], adapted: &[ModuleInfo]) -> Vec<String> {
        let _ = (modules, adapted);
        Vec::new()
    }

    /// Whether PEFT stores a long list of targets by the shortest endings.
    fn shortens_targets(&self) -> bool {
        true
    }

    /// Rows of embeddings that are trained themselves.
    fn trainable_tokens(&self) -> Option<&TokenIndices> {
        None
    }

    /// Keys of the read object that PEFT knows and this method has no use for, with the ones to set instead.
    fn useless_keys(&self, read: &Object) -> Option<String> {
        let _ = read;
        None
    }

    /// Keys that only a layer can honour, not a change of its weight alone; each with what to set.
    fn beyond_the_weight(&self) -> Vec<String> {
        let on = self.dropouts().into_iter().filter(|(_, p)| *p > 0.0);
        on.map(|(key, p)| format!("{key} = {p}: set it to 0")).collect()
    }

    /// The way out for a layer whose bias the adapter would change, where the layer's path decides that.
    fn how_to_keep_biases(&self) -> Option<&'static str> {
        None
    }

    /// Makes every step of a run of `steps` do what the dearest of its steps does, for measuring.
    fn make_steps_alike(&mut self, steps: usize) {
        let _ = steps;
    }

    /// To be called when `target_modules` has become another: takes out of other keys what is no target any more.
    fn targets_changed(&mut self) {}

    /// The modules that the method is usually measured on, in a Llama.
    fn usual_targets(&self) -> &'static [&'static str] {
        &["q_proj", "k_proj", "v_proj", "o_proj"]
    }

    /// Checks values and their combinations.
    ///
    /// # Errors
    /// [`PeftError::Config`] that lists every problem.
    fn validate(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        Err(PeftError::Config { origin: format!("{} configuration", self.peft_type()), problems })
    }

    /// The object that `adapter_config.json` holds: keys sorted, `inference_mode` true.
    fn to_json(&self) -> Object {
        let mut object = self.to_object();
        object.insert("peft_type".into(), self.peft_type().into());
        object.insert("inference_mode".into(), true.into());
        object.sort_keys();
        object
    }

    /// Which modules get an adapter.
    fn target_modules(&self) -> &TargetModules {
        self.shared().target_modules
    }

    /// Modules that are trained and saved whole.
    fn modules_to_save(&self) -> &[String] {
        self.shared().modules_to_save
    }

    /// The task that the model is trained for.
    fn task_type(&self) -> Option<TaskType> {
        self.shared().task_type
    }

    /// Where the base model came from.
    fn base_model_name_or_path(&self) -> Option<&str> {
        self.shared().base_model_name_or_path
    }

    /// Which biases of the base model are trained.
    fn bias(&self) -> Bias {
        self.shared().bias
    }

    /// Modules to leave out of the targets.
    fn exclude_modules(&self) -> Option<&ModuleNames> {
        self.shared().exclude_modules
    }

    /// Layer numbers and the name of their list that narrow the targets.
    fn layers(&self) -> (Option<&OneOrMany<usize>>, Option<&OneOrMany<String>>) {
        (self.shared().layers_to_transform, self.shared().layers_pattern)
    }

    /// The largest probability of dropping something in training.
    fn dropout(&self) -> f64 {
        self.dropouts().into_iter().fold(0.0, |largest, (_, p)| largest.max(p))
    }

    /// The trained tokens of the embedding at `path`, in the order of the adapter's rows.
    fn trainable_tokens_for(&self, path: &str) -> &[usize] {
        let is = |name: &str| path == name || path.ends_with(&format!(".{name}"));
        let mut tokens = self.trainable_tokens().into_iter().flat_map(TokenIndices::iter);
        tokens.find(|(name, _)| is(name)).map(|(_, ids)| ids).unwrap_or_default()
    }
}

/// A configuration as an object of its keys.
pub trait ToObject {
    /// Every key, in the order of the fields.
    fn to_object(&self) -> Object;
}

impl<T: Serialize> ToObject for T {
    fn to_object(&self) -> Object {
        keys::object(self)
    }
}
