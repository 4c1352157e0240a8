//! The settings that a run was begun with, against those that it is resumed with.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use crate::error::{LearnerError, Problems, Result};

/// Settings that may be others when a run is resumed: nothing that is learned depends on them, or it is what the user
/// wants to change.
const FREE: &[&str] = &[
    "training.eval_steps",
    "training.save_steps",
    "training.save_total_limit",
    "data.cache",
    "training.max_steps",
    "training.num_train_epochs",
    "training.sample_prompts",
    "training.sample_max_new_tokens",
    "training.save_as_lora",
];
/// The names of files and folders, and what the trainer state calls what is in them, which is what counts.
const PATHS: [(&str, &str); 4] =
    [("model.path", "base"), ("adapter.from", ""), ("data.train", "data"), ("data.valid", "valid")];

/// Compares `settings` with those in the file `saved`, and says in words what has changed and may. `known` are the contents
/// that are compared by their digests: for those a path may be another.
///
/// # Errors
/// [`LearnerError::ConfigChanged`] with every setting that must stay and did not.
pub(crate) fn compare(saved: &Path, settings: &Table, known: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(saved).map_err(LearnerError::io("read", saved))?;
    let old: Table = toml::from_str(&text).unwrap_or_default();
    let (mut notes, mut differences) = (Vec::new(), Problems::default());
    walk("", &old, settings, &mut |name, old, new| {
        let show = |v: Option<&Value>| v.map_or("nothing".to_owned(), ToString::to_string);
        let text = format!("{name} was {} and is {}", show(old), show(new));
        match (old, new) {
            _ if FREE.contains(&name) => notes.push(text),
            (Some(old), Some(new)) => match PATHS.iter().find(|(path, _)| *path == name) {
                Some(_) if same_place(old, new) => notes.push(format!("{text}: the same place")),
                Some((_, what)) if known.contains_key(*what) => notes.push(format!("{text}: with the same contents")),
                _ => differences.push(text),
            },
            _ => differences.push(text),
        }
    });
    if differences.is_empty() {
        return Ok(notes);
    }
    Err(LearnerError::ConfigChanged { path: saved.to_owned(), differences })
}

fn same_place(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_str(), b.as_str()) else { return false };
    matches!((Path::new(a).canonicalize(), Path::new(b).canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Tells of every key whose values differ; the output's own place is none.
fn walk(prefix: &str, old: &Table, new: &Table, tell: &mut impl FnMut(&str, Option<&Value>, Option<&Value>)) {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let name = format!("{prefix}{key}");
        match (old.get(key), new.get(key)) {
            (Some(Value::Table(a)), Some(Value::Table(b))) => walk(&format!("{name}."), a, b, tell),
            (a, b) if a == b || name == "output" => {}
            (a, b) => tell(&name, a, b),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_what_is_learned_is_refused_and_the_rest_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a.jsonl");
        std::fs::write(&data, "").unwrap();
        let text = |path: &str, lr: f64, steps: usize, seed: usize| {
            format!(
                "seed = {seed}\noutput = '{steps}'\n[data]\ntrain = '{path}'\n[training]\nlearning_rate = {lr}\neval_steps = {steps}"
            )
        };
        let (path, other) = (data.display().to_string(), folder.path().join("./a.jsonl").display().to_string());
        let other = other.replace("/a.jsonl", "/./a.jsonl");
        let saved = folder.path().join("config.toml");
        std::fs::write(&saved, text(&path, 0.1, 5, 1)).unwrap();
        let same: Table = toml::from_str(&text(&other, 0.1, 7, 1)).unwrap();
        let known = BTreeMap::new();
        let notes = compare(&saved, &same, &known).unwrap().join("\n");
        assert!(notes.contains("training.eval_steps was 5 and is 7") && notes.contains("the same place"), "{notes}");
        let changed: Table = toml::from_str(&text("b.jsonl", 0.2, 7, 2)).unwrap();
        let error = compare(&saved, &changed, &known).unwrap_err().to_string();
        for part in ["seed was 1 and is 2", "data.train was", "training.learning_rate was 0.1 and is 0.2"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        let known = BTreeMap::from([("data".to_owned(), "00".to_owned())]);
        let error = compare(&saved, &changed, &known).unwrap_err().to_string();
        assert!(!error.contains("data.train"), "its digest decides: {error}");
    }
}
