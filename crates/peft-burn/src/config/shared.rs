//! The keys that methods have in common.

use super::{Bias, ModuleNames, OneOrMany, TargetModules, TaskType, checks};

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
    /// The task that the model is trained for.
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
    /// The task that the model is trained for.
    pub task_type: &'a mut Option<TaskType>,
    /// Where the base model came from.
    pub base_model_name_or_path: &'a mut Option<String>,
}

impl Shared<'_> {
    /// Their faults, each entry with its key and the way out.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(checks::targets(self.target_modules));
        problems.extend(checks::names("exclude_modules", self.exclude_modules));
        problems.extend(checks::modules_to_save(self.modules_to_save));
        problems.extend(checks::layers(self.target_modules, self.layers_to_transform, self.layers_pattern));
        problems
    }
}

/// `shared` and `shared_mut` of a [`MethodConfig`](crate::methods::MethodConfig) whose fields are called as the keys. It is
/// given those keys of [`Shared`] that some methods lack and this one has.
macro_rules! shared_keys {
    (@set $shared:ident $config:ident bias) => {
        $shared.bias = $config.bias;
    };
    (@set $shared:ident $config:ident $key:ident) => {
        $shared.$key = $config.$key.as_ref();
    };
    ($($key:ident),*) => {
        fn shared(&self) -> $crate::config::Shared<'_> {
            let config = self;
            let mut shared = $crate::config::Shared {
                target_modules: &config.target_modules,
                exclude_modules: None,
                layers_to_transform: None,
                layers_pattern: None,
                bias: $crate::config::Bias::None,
                modules_to_save: config.modules_to_save.as_deref().unwrap_or_default(),
                task_type: config.task_type,
                base_model_name_or_path: config.base_model_name_or_path.as_deref(),
            };
            $($crate::config::shared_keys!(@set shared config $key);)*
            shared
        }

        fn shared_mut(&mut self) -> $crate::config::SharedMut<'_> {
            $crate::config::SharedMut {
                target_modules: &mut self.target_modules,
                modules_to_save: &mut self.modules_to_save,
                task_type: &mut self.task_type,
                base_model_name_or_path: &mut self.base_model_name_or_path,
            }
        }
    };
}

pub(crate) use shared_keys;
