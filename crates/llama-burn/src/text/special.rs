//! The special tokens that `tokenizer_config.json` and `special_tokens_map.json` name.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{LlamaError, Result};

/// The keys under which transformers keeps a special token.
pub(super) const KEYS: &[&str] =
    &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The named special tokens of a tokenizer, such as `eos_token`; chat templates see them under these names.
///
/// Of two that files give under one name the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpecialTokens(Vec<(&'static str, String)>);

impl SpecialTokens {
    /// The text of a token by its name, such as `"eos_token"`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// Names and texts of all that are set.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let first = |at: usize, key: &str| self.0.iter().position(|(name, _)| *name == key) == Some(at);
        self.0
            .iter()
            .enumerate()
            .filter(move |(at, (key, _))| first(*at, key))
            .map(|(_, (key, token))| (*key, token.as_str()))
    }

    /// Every text that some file gives `key`, the one of [`get`](Self::get) first.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| *name == key).map(|(_, token)| token.as_str())
    }

    /// Names tokens that no file has named.
    pub(super) fn add_missing(&mut self, tokens: &[(&'static str, &str)]) {
        self.0.extend(tokens.iter().map(|(key, token)| (*key, (*token).to_owned())));
    }

    /// Reads `tokenizer_config.json` and `special_tokens_map.json` of a directory; none is the same as one that names no
    /// token. As in Transformers the map has the last word, unless the configuration lists its tokens itself
    /// (`added_tokens_decoder`).
    pub(crate) fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let read = |name: &str| -> Result<Option<(Self, bool)>> {
            let path = dir.as_ref().join(name);
            match std::fs::read(&path) {
                Ok(json) => {
                    let lists = serde_json::from_slice::<Map<String, Value>>(&json)
                        .is_ok_and(|map| map.contains_key("added_tokens_decoder"));
                    Ok(Some((Self::from_json(&json, &path)?, lists)))
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(LlamaError::io(path)(error)),
            }
        };
        let (config, lists) = read("tokenizer_config.json")?.unwrap_or_default();
        let (map, _) = read("special_tokens_map.json")?.unwrap_or_default();
        let (first, second) = if lists { (config, map) } else { (map, config) };
        Ok(Self(first.0.into_iter().chain(second.0).collect()))
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
