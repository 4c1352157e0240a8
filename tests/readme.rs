//! The README says where things are; they are there.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use peft_learner::config::{DataConfig, ModelConfig, TrainingConfig};
use serde_json::{Value, to_value};

/// Folders and files that appear in the README, in backquotes.
#[test]
fn every_path_of_the_readme_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let quoted = readme.split('`').skip(1).step_by(2);
    let ours = ["benches/", "crates/", "datasets/", "docs/", "examples/", "tests/"];
    let paths: Vec<_> = quoted.filter(|text| ours.iter().any(|folder| text.starts_with(folder))).collect();
    assert!(paths.len() >= 5, "{paths:?}");
    for path in paths {
        assert!(root.join(path).exists(), "README.md names {path}");
    }
}

/// Each key of a run's file, in backquotes.
#[test]
fn every_key_of_a_run_is_in_the_documents() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/training.md")).unwrap();
    let training = TrainingConfig {
        max_steps: Some(1),
        loraplus_lr_ratio: Some(16.0),
        sample_prompts: vec!["a".into()],
        ..TrainingConfig::default()
    };
    let keys = |section: Value| section.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let sections = [to_value(training), to_value(DataConfig::default()), to_value(ModelConfig::new("a"))];
    for key in sections.into_iter().flat_map(|section| keys(section.unwrap())) {
        assert!(text.contains(&format!("`{key}`")), "docs/training.md lacks `{key}`");
    }
}
