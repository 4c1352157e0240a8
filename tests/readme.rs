//! The README says where things are; they are there.
#![allow(clippy::unwrap_used)]

use std::path::Path;

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
