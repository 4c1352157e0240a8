//! The files that lie beside `tokenizer.json` and say more about the tokenizer.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{LlamaError, Result};

/// Their contents; a file that is missing is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    /// `tokenizer_config.json`.
    pub config: Map<String, Value>,
    /// `special_tokens_map.json`.
    pub map: Map<String, Value>,
    /// `added_tokens.json`.
    pub added: Map<String, Value>,
    /// `config.json`.
    pub model: Map<String, Value>,
}

impl Beside {
    /// Reads each of them once.
    pub(super) fn from_dir(dir: &Path) -> Result<Self> {
        let read = |name: &str| object_in(dir, name);
        Ok(Self {
            config: read("tokenizer_config.json")?,
            map: read("special_tokens_map.json")?,
            added: read("added_tokens.json")?,
            model: read("config.json")?,
        })
    }

    /// Whether `tokenizer_config.json` lists the added tokens: the two files of older tokenizers do not count then.
    pub(super) fn lists_tokens(&self) -> bool {
        self.config.contains_key("added_tokens_decoder")
    }
}

/// The object in a file of a directory; an empty one where there is no such file.
pub(super) fn object_in(dir: &Path, name: &str) -> Result<Map<String, Value>> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).map_err(LlamaError::json(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(LlamaError::io(path)(error)),
    }
}
