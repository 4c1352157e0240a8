//! The shortest endings that tell a set of module paths from all others.

use std::collections::HashSet;

use crate::modules::names_module;

/// The endings, by whole segments, that select exactly the modules that `names` select among `paths`.
pub(super) fn suffixes<'a>(names: &'a [String], paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let named = |path: &str| names.iter().any(|name| names_module(name, path));
    let taken: HashSet<&str> = paths.filter(|path| !named(path)).flat_map(endings).collect();

    let mut candidates: Vec<Vec<&str>> = names.iter().map(|name| endings(name).collect()).collect();
    candidates.sort();
    candidates.dedup();
    let mut chosen: Vec<&str> = Vec::new();
    for endings in candidates {
        let Some(&name) = endings.last() else { continue };
        let covered = chosen.iter().any(|suffix| names_module(suffix, name) && *suffix != name);
        if covered {
            continue;
        }
        let free = |ending: &&&str| !taken.contains(**ending) && !chosen.contains(*ending);
        chosen.extend(endings.iter().find(free).copied());
    }
    chosen.into_iter().map(Into::into).collect()
}

/// The endings of a path, shortest first.
fn endings(path: &str) -> impl Iterator<Item = &str> {
    let starts = path.rmatch_indices('.').map(|(dot, _)| dot + 1).chain(std::iter::once(0));
    starts.map(move |start| &path[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_as_long_as_the_other_modules_force_them_to_be() {
        let path = |layer: usize, name: &str| format!("model.layers.{layer}.self_attn.{name}");
        let paths: Vec<_> = (0..3).flat_map(|i| ["q_proj", "k_proj"].map(|name| path(i, name))).collect();
        let all = |names: &[String]| suffixes(names, paths.iter().map(String::as_str));

        assert_eq!(all(&[0, 1, 2].map(|i| path(i, "q_proj"))), ["q_proj"]);
        assert_eq!(
            all(&[path(0, "q_proj"), path(1, "k_proj"), path(0, "k_proj")]),
            ["0.self_attn.k_proj", "1.self_attn.k_proj", "0.self_attn.q_proj"]
        );
    }
}
