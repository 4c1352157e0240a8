//! Names, patterns and layer numbers that match nothing.

use super::matcher::Matcher;
use super::{ModuleInfo, ModuleKind, last_segment, layer_numbers, names_module};
use crate::config::{LoraConfig, ModuleNames, PeftConfig, TargetModules};

/// One line each, with the key.
pub(super) struct Unmatched {
    /// Names of modules to adapt or to save.
    pub targets: Vec<String>,
    /// What only narrows or refines the selection.
    pub refinements: Vec<String>,
}

pub(super) fn find(
    config: &PeftConfig,
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
    if let PeftConfig::Lora(LoraConfig { trainable_token_indices: Some(tokens), .. }) = config {
        let embedding = |name: &str| {
            modules.iter().any(|module| module.kind == ModuleKind::Embedding && names_module(name, &module.path))
        };
        let unmatched = tokens.iter().filter(|(name, _)| !embedding(name));
        targets.extend(unmatched.map(|(name, _)| line("trainable_token_indices", name)));
    }
    if let PeftConfig::Ia3(config) = config {
        let none = |test: &dyn Fn(&str) -> bool| !adapted.iter().any(|module| test(&module.path));
        match &config.feedforward_modules {
            Some(ModuleNames::List(names)) => {
                for name in names.iter().filter(|name| none(&|path| path.ends_with(name.as_str()))) {
                    let there = any(&|path| path.ends_with(name.as_str()));
                    let hint = if there { ", which target_modules leaves out" } else { &suggestion(name, modules) };
                    refinements.push(format!("feedforward_modules: `{name}`{hint}"));
                }
            }
            Some(ModuleNames::Regex(pattern)) if none(&|path| config.is_feedforward(path)) => {
                refinements.push(format!("feedforward_modules: `{pattern}`"));
            }
            _ => {}
        }
    }

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
    let adapted = adapted.iter().map(|module| module.path.as_str());
    match config {
        PeftConfig::Lora(config) => {
            let ranks = config.rank_pattern.unmatched(adapted.clone()).into_iter();
            refinements.extend(ranks.map(|pattern| format!("rank_pattern: `{pattern}`")));
            let alphas = config.alpha_pattern.unmatched(adapted).into_iter();
            refinements.extend(alphas.map(|pattern| format!("alpha_pattern: `{pattern}`")));
        }
        PeftConfig::AdaLora(config) => {
            let masks = config.rank_pattern.iter().flatten().map(|(name, _)| name.as_str());
            let known: Vec<_> = adapted.map(|path| format!("{path}.lora_E")).collect();
            let unmatched = masks.filter(|name| !known.iter().any(|known| known == name));
            refinements.extend(unmatched.map(|name| format!("rank_pattern: `{name}`")));
        }
        PeftConfig::Vera(_) | PeftConfig::Ia3(_) => {}
    }
    Unmatched { targets, refinements }
}

/// The likeliest name that was meant: another path if a path was given, else a last segment.
fn suggestion(name: &str, modules: &[ModuleInfo]) -> String {
    let candidates = modules
        .iter()
        .filter(|module| module.kind != ModuleKind::Other)
        .map(|module| if name.contains('.') { module.path.as_str() } else { last_segment(&module.path) });
    let likeliest = candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match likeliest {
        Some((_, candidate)) if candidate == name => String::new(),
        Some((likeness, candidate)) if likeness > 0.6 => format!(", did you mean `{candidate}`?"),
        _ => String::new(),
    }
}
