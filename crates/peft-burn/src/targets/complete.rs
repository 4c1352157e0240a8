//! Values that PEFT takes from the model where the configuration leaves them open.

use crate::config::TargetModules;
use crate::error::{PeftError, Result};
use crate::methods::MethodConfig;
use crate::modules::{ModuleInfo, ModuleKind};

/// Fills in the default targets of the model type, spells out `all-linear`, and adds the heads of the task to
/// `modules_to_save`.
pub(super) fn complete(config: &mut dyn MethodConfig, modules: &[ModuleInfo], model_type: &str) -> Result<()> {
    let targets = match config.target_modules() {
        TargetModules::ModelDefault => {
            let names = config.default_targets(model_type);
            let names = names.ok_or_else(|| no_default(config, "target_modules", model_type))?;
            Some(TargetModules::list(names.iter().copied()))
        }
        TargetModules::AllLinear => {
            let linear = modules.iter().filter(|module| module.kind == ModuleKind::Linear);
            Some(TargetModules::list(linear.map(|module| module.path.as_str())))
        }
        TargetModules::Regex(_) | TargetModules::List(_) => None,
    };
    if let Some(targets) = targets {
        *config.shared_mut().target_modules = targets;
    }
    if let Some(heads) = config.task_type().map(|task| task.heads()).filter(|heads| !heads.is_empty()) {
        let names = config.shared_mut().modules_to_save.get_or_insert_default();
        for head in heads {
            if !names.iter().any(|name| name == head) {
                names.push(head.to_string());
            }
        }
    }
    Ok(())
}

/// The key `key` is needed, and models of this type bring no default for it.
pub(super) fn no_default(config: &dyn MethodConfig, key: &str, model_type: &str) -> PeftError {
    PeftError::Config {
        origin: format!("{} configuration", config.peft_type()),
        problems: vec![format!("{key} has no default for models of type `{model_type}`; set it")],
    }
}
