//! The special tokens that `tokenizer_config.json` and `special_tokens_map.json` name.

use std::path::Path;

use serde_json::{Map, Value};

use super::beside::object_in;
use crate::error::{LlamaError, Result};

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";

/// The keys under which transformers keeps a special token.
pub(super) const KEYS: &[&str] =
    &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The named special tokens of a tokenizer, such as `eos_token`; chat templates see them under these names.
///
/// Of two that files give under one name the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpecialTokens(Vec<(String, String)>);

impl SpecialTokens {
    /// The text of a token by its name, such as `"eos_token"`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// Names and texts of all that are set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let first = |at: usize, key: &str| self.0.iter().position(|(name, _)| *name == key) == Some(at);
        self.0
            .iter()
            .enumerate()
            .filter(move |(at, (key, _))| first(*at, key))
            .map(|(_, (key, token))| (key.as_str(), token.as_str()))
    }

    /// Every text that some file gives `key`, the one of [`get`](Self::get) first.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| *name == key).map(|(_, token)| token.as_str())
    }

    /// Those of a directory's `tokenizer_config.json` and `special_tokens_map.json`; none is the same as one that names no token.
    pub(crate) fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let read = |name: &str| object_in(dir.as_ref(), name);
        Self::of(&read(CONFIG)?, &read(MAP)?, dir.as_ref())
    }

    /// Those of the contents of both files, which lie in `dir`. As in Transformers the map has the last word, unless the
    /// configuration lists its tokens itself (`added_tokens_decoder`).
    pub(super) fn of(config: &Map<String, Value>, map: &Map<String, Value>, dir: &Path) -> Result<Self> {
        let lists = config.contains_key("added_tokens_decoder");
        let (config, map) = (Self::named(config, &dir.join(CONFIG))?, Self::named(map, &dir.join(MAP))?);
        let (first, second) = if lists { (config, map) } else { (map, config) };
        Ok(Self(first.0.into_iter().chain(second.0).collect()))
    }

    /// Those that the contents of one file name, each as a string or as an `AddedToken` object.
    fn named(config: &Map<String, Value>, origin: &Path) -> Result<Self> {
        let mut tokens = Vec::new();
        let mut problems = Vec::new();
        for &key in KEYS {
            match config.get(key) {
                None | Some(Value::Null) => {}
                Some(value) => match value.as_str().or_else(|| value.get("content")?.as_str()) {
                    Some(token) => tokens.push((key.to_owned(), token.to_string())),
                    None => problems.push(format!("{key} must be a string or an object with content, but is {value}")),
                },
            }
        }
        // Names of a model's own.
        let own = config.iter().filter(|(key, _)| key.ends_with("_token") && !KEYS.contains(&key.as_str()));
        let extra = config.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
        tokens.extend(own.chain(extra).filter_map(|(key, value)| {
            let token = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((key.clone(), token.to_owned()))
        }));
        if problems.is_empty() {
            return Ok(Self(tokens));
        }
        Err(LlamaError::Tokenizer { origin: origin.display().to_string(), message: problems.join("; ") })
    }
}
