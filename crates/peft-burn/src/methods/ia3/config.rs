//! IA3.

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::keys::{MethodConfig, OtherKeys};
use crate::config::{ModuleNames, TargetModules, TaskType, checks};

/// `peft_type` `IA3`: one learned vector a module, which scales the input of feedforward modules and the output of
/// the others. PEFT's keys and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ia3Config {
    /// Which modules get an adapter.
    pub target_modules: TargetModules,
    /// Those of them whose input is scaled; absent: PEFT's default for the model type, for Llama `down_proj`.
    pub feedforward_modules: Option<ModuleNames>,
    /// Modules to leave out of `target_modules`.
    pub exclude_modules: Option<ModuleNames>,
    /// `true`: start from ones. `false`: from standard normal numbers.
    pub init_ia3_weights: bool,
    /// Modules that are trained and saved whole.
    pub modules_to_save: Option<Vec<String>>,
    /// What the model is trained for.
    pub task_type: Option<TaskType>,
    /// Where the base model came from.
    pub base_model_name_or_path: Option<String>,
    /// PEFT's other keys.
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self {
            target_modules: TargetModules::ModelDefault,
            feedforward_modules: None,
            exclude_modules: None,
            init_ia3_weights: true,
            modules_to_save: None,
            task_type: None,
            base_model_name_or_path: None,
            other: OtherKeys::new(&features()),
        }
    }
}

/// Features of PEFT's IA3 that this crate does not implement, with the value that leaves them off.
fn features() -> [(&'static str, Value); 1] {
    [("fan_in_fan_out", json!(false))]
}

impl Ia3Config {
    /// Whether the vector of the module at `path` scales its input (`[1, in]`) rather than its output (`[out, 1]`).
    ///
    /// As in PEFT a listed name matches any ending of the path, also in the middle of a segment. With
    /// `feedforward_modules` absent no module is: resolving the configuration fills in the model's default.
    pub fn is_feedforward(&self, path: &str) -> bool {
        match &self.feedforward_modules {
            None => false,
            Some(ModuleNames::List(names)) => names.iter().any(|name| path.ends_with(name.as_str())),
            Some(ModuleNames::Regex(pattern)) => {
                Regex::new(&format!(r"\A(?:{pattern})\z")).is_ok_and(|regex| regex.is_match(path).unwrap_or(false))
            }
        }
    }
}

impl MethodConfig for Ia3Config {
    const PEFT_TYPE: &'static str = "IA3";

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(checks::targets(&self.target_modules));
        problems.extend(checks::names("exclude_modules", self.exclude_modules.as_ref()));
        problems.extend(checks::names("feedforward_modules", self.feedforward_modules.as_ref()));
        problems.extend(checks::modules_to_save(self.modules_to_save.as_deref()));
        if let (TargetModules::List(targets), Some(ModuleNames::List(names))) =
            (&self.target_modules, &self.feedforward_modules)
        {
            // PEFT wants the very same name, yet matches by the ending; a longer target with that ending will do.
            let stray = names.iter().filter(|name| !targets.iter().any(|target| target.ends_with(name.as_str())));
            problems.extend(stray.map(|name| {
                format!("feedforward_modules: `{name}` is not in target_modules; add it there or take it out here")
            }));
        }
        problems.extend(self.other.problems(&features()));
        problems
    }
}
