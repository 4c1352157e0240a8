//! Which files of a repository make up a model.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{LlamaError, Result};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Taken where a repository has them.
pub(super) const OPTIONAL: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The shards that an index names.
pub(super) fn shards(index: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(index).map_err(LlamaError::io(index))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(LlamaError::json(index))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let names: BTreeSet<&str> = map.into_iter().flatten().filter_map(|(_, file)| file.as_str()).collect();
    // A shard lies beside its index: a name with a directory in it could point anywhere.
    let strange = names.iter().any(|name| name.contains(['/', '\\']) || name.starts_with('.'));
    if names.is_empty() || strange {
        let message = "its weight_map must give every tensor the name of a file in the same directory".to_string();
        return Err(LlamaError::Safetensors { path: index.to_path_buf(), message });
    }
    Ok(names.into_iter().map(str::to_string).collect())
}

/// What a directory lacks to be a model; empty if it is complete.
pub(super) fn missing(dir: &Path) -> Vec<String> {
    let lacks = |name: &str| !dir.join(name).exists();
    let mut missing: Vec<String> = [CONFIG].into_iter().filter(|name| lacks(name)).map(str::to_string).collect();
    if lacks(WEIGHTS) {
        match shards(&dir.join(INDEX)) {
            Ok(shards) => missing.extend(shards.into_iter().filter(|name| lacks(name))),
            Err(_) => missing.push(WEIGHTS.to_string()),
        }
    }
    missing
}
