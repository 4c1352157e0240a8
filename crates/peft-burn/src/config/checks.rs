//! Checks that several methods share. Each returns a line that names the key and the way out, or nothing.

use super::{Bias, ModuleNames, OneOrMany, Patterns, TargetModules, patterns};

/// No tensor of an adapter has more numbers: 8 GiB in f32, and what GPUs can count.
pub(crate) const MOST_NUMBERS: usize = 1 << 31;

pub(crate) fn rank(key: &str, r: usize) -> Option<String> {
    match r {
        0 => Some(format!("{key} = 0: a rank is 1 or more")),
        _ => (r > MOST_NUMBERS).then(|| format!("{key} = {r}: no model holds an adapter of that rank")),
    }
}

pub(crate) fn dropout(key: &str, p: f64) -> Option<String> {
    (!(0.0..1.0).contains(&p)).then(|| format!("{key} = {p}: a probability of at least 0 and below 1"))
}

pub(crate) fn finite(key: &str, value: f64) -> Option<String> {
    (!value.is_finite()).then(|| format!("{key} = {value}: a finite number"))
}

pub(crate) fn bias(found: Bias, of_another_method: Bias, own: &str) -> Option<String> {
    let name = if found == Bias::VeraOnly { "vera_only" } else { "lora_only" };
    (found == of_another_method).then(|| format!("bias = \"{name}\" belongs to another method; use \"{own}\""))
}

/// `layers_to_transform` and `layers_pattern` narrow a list of names; a regular expression says it all by itself.
pub(crate) fn layers(
    targets: &TargetModules,
    indices: Option<&OneOrMany<usize>>,
    pattern: Option<&OneOrMany<String>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    if matches!(targets, TargetModules::Regex(_) | TargetModules::AllLinear) {
        for (key, set) in [("layers_to_transform", indices.is_some()), ("layers_pattern", pattern.is_some())] {
            if set {
                problems.push(format!(
                    "{key} cannot narrow a target_modules that is a string; \
                     put the layers into the regular expression, or list the modules"
                ));
            }
        }
    }
    let pattern = pattern.map_or(&[][..], OneOrMany::as_slice);
    if !pattern.is_empty() && indices.is_none() {
        problems.push("layers_pattern without layers_to_transform selects nothing; give the layer numbers too".into());
    }
    problems.extend(pattern.iter().filter_map(|p| regex("layers_pattern", p)));
    problems
}

pub(crate) fn targets(targets: &TargetModules) -> Option<String> {
    match targets {
        TargetModules::Regex(pattern) => regex("target_modules", pattern),
        TargetModules::List(names) if names.is_empty() => {
            Some("target_modules = []: name at least one module, or leave the key out for the model's default".into())
        }
        _ => None,
    }
}

pub(crate) fn names(key: &str, names: Option<&ModuleNames>) -> Option<String> {
    match names {
        Some(ModuleNames::Regex(pattern)) => regex(key, pattern),
        _ => None,
    }
}

pub(crate) fn modules_to_save(names: &[String]) -> Vec<String> {
    names.iter().filter_map(|name| regex("modules_to_save", name)).collect()
}

/// `rank_pattern` and `alpha_pattern`.
pub(crate) fn patterns(ranks: &Patterns<usize>, alphas: &Patterns<f64>) -> Vec<String> {
    let mut problems = Vec::new();
    for (pattern, &r) in ranks.iter() {
        problems.extend(regex("rank_pattern", pattern));
        problems.extend(rank(&format!("rank_pattern.`{pattern}`"), r));
    }
    for (pattern, &alpha) in alphas.iter() {
        problems.extend(regex("alpha_pattern", pattern));
        problems.extend(finite(&format!("alpha_pattern.`{pattern}`"), alpha));
    }
    problems
}

pub(crate) fn regex(key: &str, pattern: &str) -> Option<String> {
    let error = patterns::compile(pattern).err()?;
    Some(format!("{key}: `{pattern}` is not a regular expression: {error}"))
}
