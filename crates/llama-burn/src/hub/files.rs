//! Which files of a repository make up a model.

use std::path::Path;

use crate::weights::{BIN, BIN_INDEX, INDEX, SINGLE, shards};

pub(super) const CONFIG: &str = "config.json";
/// Taken where a repository has them.
pub(super) const OPTIONAL: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The weights, in the order in which loading looks for them.
pub(super) const WEIGHTS: &[&str] = &[SINGLE, INDEX, BIN, BIN_INDEX];

/// Whether the file `name` says which shards there are.
pub(super) fn is_index(name: &str) -> bool {
    [INDEX, BIN_INDEX].contains(&name)
}

/// The files that a directory lacks to be a model; empty if it is complete.
pub(super) fn missing(dir: &Path) -> Vec<String> {
    let lacks = |name: &str| !dir.join(name).exists();
    let mut missing: Vec<String> = [CONFIG].into_iter().filter(|name| lacks(name)).map(str::to_string).collect();
    match WEIGHTS.iter().find(|name| !lacks(name)) {
        Some(index) if is_index(index) => match shards(&dir.join(index)) {
            Ok(shards) => missing.extend(shards.into_iter().filter(|name| lacks(name))),
            Err(_) => missing.push((*index).to_string()),
        },
        Some(_) => {}
        None => missing.push(SINGLE.to_string()),
    }
    missing
}
