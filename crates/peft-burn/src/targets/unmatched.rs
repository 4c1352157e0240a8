//! Names, patterns and layer numbers that match nothing.

use super::layer_numbers::layer_numbers;
use super::matcher::Matcher;
use crate::config::{ModuleNames, TargetModules, TokenIndices};
use crate::methods::MethodConfig;
use crate::modules::{ModuleInfo, ModuleKind, names_module, suggestion};

/// One line each, with the key.
pub(super) struct Unmatched {
    /// Names of modules to adapt or to save.
    pub targets: Vec<String>,
    /// Entries that only narrow or refine the selection.
    pub refinements: Vec<String>,
}

pub(super) fn find(
    config: &dyn MethodConfig,
    matcher: &Matcher,
    modules: &[ModuleInfo],
    adapted: &[ModuleInfo],
) -> Unmatched {
    let any = |test: &dyn Fn(&str) -> bool| modules.iter().any(|module| test(&module.path));
    let line = |key: &str, name: &str| format!("{key}: `{name}`{}", suggestion(name, modules));
    let (mut targets, mut refinements) = (Vec::new(), Vec::new());

    if let TargetModules::List(names) = config.target_modules() {
        let unmatched = names.iter().filter(|name| !any(&|path| names_module(name, path)));
        targets.extend(unmatched.map(|name| line("target_modules", name)));
    }
    let heads = config.task_type().map_or(&[][..], |task| task.heads());
    for name in config.modules_to_save().iter().filter(|name| !heads.contains(&name.as_str())) {
        if !any(&|path| path.ends_with(name.as_str()) || path.contains(&format!("{name}."))) {
            targets.push(line("modules_to_save", name));
        }
    }
    let has_tokens = |name: &str| {
        let by_token = |kind: ModuleKind| matches!(kind, ModuleKind::Embedding | ModuleKind::OutputHead);
        modules.iter().any(|module| by_token(module.kind) && names_module(name, &module.path))
    };
    let tokens = config.trainable_tokens().into_iter().flat_map(TokenIndices::iter);
    let unmatched = tokens.filter(|(name, _)| !has_tokens(name));
    targets.extend(unmatched.map(|(name, _)| line("trainable_token_indices", name)));

    match config.exclude_modules() {
        Some(ModuleNames::List(names)) => {
            let unmatched = names.iter().filter(|name| !any(&|path| names_module(name, path)));
            refinements.extend(unmatched.map(|name| line("exclude_modules", name)));
        }
        Some(ModuleNames::Regex(pattern)) if !any(&|path| matcher.excludes(path)) => {
            refinements.push(format!("exclude_modules: `{pattern}`"));
        }
        _ => {}
    }
    for layer in layer_numbers(config) {
        if !any(&|path| matcher.targets(path) && matcher.layer_of(path) == Some(*layer)) {
            refinements.push(format!("layers_to_transform: {layer}"));
        }
    }
    refinements.extend(config.unmatched(modules, adapted));
    Unmatched { targets, refinements }
}
