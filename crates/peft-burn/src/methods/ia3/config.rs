//! IA3.

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{ModuleNames, OtherKeys, TargetModules, TaskType, checks, shared_keys};
use crate::methods::traits::{Change, MethodConfig, families};
use crate::modules::{ModuleInfo, suggestion};

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
    /// The task that the model is trained for.
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

/// The modules that PEFT adapts in a Llama.
const USUAL: [&str; 3] = ["k_proj", "v_proj", "down_proj"];

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

    /// Fills in `feedforward_modules`, and names them as `target_modules` does: PEFT refuses to read a file where the
    /// one list is no part of the other, although it writes such files itself. A default counts only where it is adapted.
    fn complete_feedforward(&mut self, adapted: &[ModuleInfo]) {
        let given = self.feedforward_modules.is_some();
        let names = match self.feedforward_modules.take() {
            Some(ModuleNames::List(names)) => names,
            None => vec!["down_proj".into()],
            regex => {
                self.feedforward_modules = regex;
                return;
            }
        };
        let targets = if let TargetModules::List(targets) = &self.target_modules { &targets[..] } else { &[] };
        let as_targeted = |name: String| {
            let longer: Vec<_> = targets.iter().filter(|target| target.ends_with(&name)).cloned().collect();
            if targets.contains(&name) || longer.is_empty() { vec![name] } else { longer }
        };
        let mut names: Vec<String> = names.into_iter().flat_map(as_targeted).collect();
        if !given {
            names.retain(|name| adapted.iter().any(|module| module.path.ends_with(name.as_str())));
        }
        self.feedforward_modules = Some(ModuleNames::List(names));
    }
}

impl MethodConfig for Ia3Config {
    fn peft_type(&self) -> &'static str {
        "IA3"
    }

    fn display_name(&self) -> &'static str {
        "IA3"
    }

    shared_keys!(exclude_modules);

    fn problems(&self) -> Vec<String> {
        let mut problems = self.shared().problems();
        problems.extend(checks::names("feedforward_modules", self.feedforward_modules.as_ref()));
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

    fn parameters(&self, module: &ModuleInfo) -> usize {
        if self.is_feedforward(&module.path) { module.in_features } else { module.out_features }
    }

    fn tensor_prefix(&self) -> &'static str {
        "ia3_"
    }

    fn change(&self) -> Change {
        Change::Vectors
    }

    fn default_targets(&self, model_type: &str) -> Option<&'static [&'static str]> {
        match model_type {
            "llama" | "mistral" => Some(&USUAL),
            _ => families::KNOWN.contains(&model_type).then_some(&["q_proj", "v_proj", "down_proj"]),
        }
    }

    fn usual_targets(&self) -> &'static [&'static str] {
        &USUAL
    }

    fn complete(&mut self, model_type: &str, adapted: &[ModuleInfo]) -> Result<(), &'static str> {
        if self.feedforward_modules.is_none() && !families::KNOWN.contains(&model_type) {
            return Err("feedforward_modules");
        }
        self.complete_feedforward(adapted);
        Ok(())
    }

    fn targets_changed(&mut self) {
        if let (TargetModules::List(targets), Some(ModuleNames::List(names))) =
            (&self.target_modules, &mut self.feedforward_modules)
        {
            names.retain(|name| targets.iter().any(|target| target.ends_with(name.as_str())));
        }
    }

    fn unmatched(&self, modules: &[ModuleInfo], adapted: &[ModuleInfo]) -> Vec<String> {
        let none = |test: &dyn Fn(&str) -> bool| !adapted.iter().any(|module| test(&module.path));
        match &self.feedforward_modules {
            Some(ModuleNames::List(names)) => {
                let unmatched = names.iter().filter(|name| none(&|path| path.ends_with(name.as_str())));
                let line = |name: &String| {
                    let there = modules.iter().any(|module| module.path.ends_with(name.as_str()));
                    let hint = if there { ", which target_modules leaves out" } else { &suggestion(name, modules) };
                    format!("feedforward_modules: `{name}`{hint}")
                };
                unmatched.map(line).collect()
            }
            Some(ModuleNames::Regex(pattern)) if none(&|path| self.is_feedforward(path)) => {
                vec![format!("feedforward_modules: `{pattern}`")]
            }
            _ => Vec::new(),
        }
    }

    fn how_to_keep_biases(&self) -> Option<&'static str> {
        Some("name it in feedforward_modules")
    }

    fn shortens_targets(&self) -> bool {
        false
    }
}
