//! What PEFT takes from the model where the configuration leaves it open.

use super::{ModuleInfo, ModuleKind};
use crate::config::{Ia3Config, ModuleNames, PeftConfig, TargetModules};
use crate::{PeftError, Result};

/// Fills in the default targets of the model type, spells out `all-linear`, and adds the heads of the task to
/// `modules_to_save`.
pub(super) fn complete(mut config: PeftConfig, modules: &[ModuleInfo], model_type: &str) -> Result<PeftConfig> {
    let known = model_type == "llama";
    let peft_type = config.peft_type();
    let unknown = |key: &str| PeftError::Config {
        origin: format!("{peft_type} configuration"),
        problems: vec![format!("{key} has no default for models of type `{model_type}`; set it")],
    };
    match config.target_modules() {
        TargetModules::ModelDefault if !known => return Err(unknown("target_modules")),
        TargetModules::ModelDefault => {
            let names: &[&str] = match config {
                PeftConfig::Ia3(_) => &["k_proj", "v_proj", "down_proj"],
                _ => &["q_proj", "v_proj"],
            };
            *config.target_modules_mut() = TargetModules::list(names.iter().copied());
        }
        TargetModules::AllLinear => {
            let linear = modules.iter().filter(|module| module.kind == ModuleKind::Linear);
            *config.target_modules_mut() = TargetModules::list(linear.map(|module| module.path.as_str()));
        }
        TargetModules::Regex(_) | TargetModules::List(_) => {}
    }
    if matches!(&config, PeftConfig::Ia3(Ia3Config { feedforward_modules: None, .. })) && !known {
        return Err(unknown("feedforward_modules"));
    }
    if let PeftConfig::Ia3(config) = &mut config {
        complete_feedforward(config);
    }
    if let Some(heads) = config.task_type().map(|task| task.heads()).filter(|heads| !heads.is_empty()) {
        let names = config.modules_to_save_mut().get_or_insert_default();
        for head in heads {
            if !names.iter().any(|name| name == head) {
                names.push(head.to_string());
            }
        }
    }
    Ok(config)
}

/// Fills in `feedforward_modules`, and names them as `target_modules` does: PEFT refuses to read a file where the
/// one list is no part of the other, although it writes such files itself.
fn complete_feedforward(config: &mut Ia3Config) {
    let names = match config.feedforward_modules.take() {
        Some(ModuleNames::List(names)) => names,
        None => vec!["down_proj".into()],
        regex => {
            config.feedforward_modules = regex;
            return;
        }
    };
    let targets = if let TargetModules::List(targets) = &config.target_modules { &targets[..] } else { &[] };
    let as_targeted = |name: String| {
        let longer: Vec<_> = targets.iter().filter(|target| target.ends_with(&name)).cloned().collect();
        if targets.contains(&name) || longer.is_empty() { vec![name] } else { longer }
    };
    config.feedforward_modules = Some(ModuleNames::List(names.into_iter().flat_map(as_targeted).collect()));
}
