//! The special tokens that `tokenizer_config.json` names.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{LlamaError, Result};

/// The keys under which transformers keeps a special token.
const KEYS: &[&str] = &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The named special tokens of a tokenizer, such as `eos_token`; chat templates see them under these names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens(Vec<(&'static str, String)>);

impl SpecialTokens {
    /// The text of a token by its name, such as `"eos_token"`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, token)| token)
    }

    /// Names and texts of all that are set.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, token)| (*name, token.as_str()))
    }

    /// Reads `tokenizer_config.json` of a directory; none is the same as one that names no token.
    pub(crate) fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join("tokenizer_config.json");
        match std::fs::read(&path) {
            Ok(json) => Self::from_json(&json, &path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(LlamaError::io(path)(error)),
        }
    }

    /// Reads the contents of a `tokenizer_config.json`, where a token is a string or an `AddedToken` object.
    pub(crate) fn from_json(json: &[u8], origin: &Path) -> Result<Self> {
        let config: Map<String, Value> = serde_json::from_slice(json).map_err(LlamaError::json(origin))?;
        let mut tokens = Vec::new();
        let mut problems = Vec::new();
        for &key in KEYS {
            match config.get(key) {
                None | Some(Value::Null) => {}
                Some(value) => match value.as_str().or_else(|| value.get("content")?.as_str()) {
                    Some(token) => tokens.push((key, token.to_string())),
                    None => problems.push(format!("{key} must be a string or an object with content, but is {value}")),
                },
            }
        }
        if problems.is_empty() {
            return Ok(Self(tokens));
        }
        Err(LlamaError::Tokenizer { origin: origin.display().to_string(), message: problems.join("; ") })
    }
}
