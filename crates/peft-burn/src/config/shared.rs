//! The keys that methods have in common.

use super::{Bias, ModuleNames, OneOrMany, TargetModules, TaskType};

/// The keys that methods have in common, as one of them holds them; a key that the method lacks is as if it were absent.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    /// Which modules get an adapter.
    pub target_modules: &'a TargetModules,
    /// Modules to leave out of them.
    pub exclude_modules: Option<&'a ModuleNames>,
    /// Keep only the modules of these layers.
    pub layers_to_transform: Option<&'a OneOrMany<usize>>,
    /// Name of the list of layers that `layers_to_transform` counts in.
    pub layers_pattern: Option<&'a OneOrMany<String>>,
    /// Which biases of the base model are trained.
    pub bias: Bias,
    /// Modules that are trained and saved whole.
    pub modules_to_save: &'a [String],
    /// What the model is trained for.
    pub task_type: Option<TaskType>,
    /// Where the base model came from.
    pub base_model_name_or_path: Option<&'a str>,
}

/// As [`Shared`], to change.
#[derive(Debug)]
pub struct SharedMut<'a> {
    /// Which modules get an adapter.
    pub target_modules: &'a mut TargetModules,
    /// Modules that are trained and saved whole.
    pub modules_to_save: &'a mut Option<Vec<String>>,
    /// What the model is trained for.
    pub task_type: &'a mut Option<TaskType>,
    /// Where the base model came from.
    pub base_model_name_or_path: &'a mut Option<String>,
}
