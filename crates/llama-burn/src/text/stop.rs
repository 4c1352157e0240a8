//! The end of a text: one answer for training, generation and evaluation.

use std::path::Path;

use serde_json::{Map, Value};

use super::tokenizer::Tokenizer;
use crate::error::{LlamaError, Result};

/// The tokens that end a text or a turn.
///
/// They are all that the files of a model name: `eos_token_id` of `generation_config.json` and `config.json` (a number or
/// a list), `eos_token` of `tokenizer_config.json` and `special_tokens_map.json` (a string, or an object with `content`),
/// and the special token that the post-processor of `tokenizer.json` puts behind a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopTokens {
    ids: Vec<u32>,
}

impl StopTokens {
    /// `ids`, of which the first is the one that is put at the end of a training text.
    pub fn new(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut stop = Self::default();
        ids.into_iter().for_each(|id| stop.add(id));
        stop
    }

    /// Reads what the files of a model directory name.
    ///
    /// # Errors
    /// [`LlamaError::Io`], [`LlamaError::Json`], and [`LlamaError::Config`] for an `eos_token_id` that is no id.
    pub fn from_dir(dir: impl AsRef<Path>, tokenizer: &Tokenizer) -> Result<Self> {
        let dir = dir.as_ref();
        let named = tokenizer.special_tokens().all("eos_token");
        let mut stop = Self::new(named.filter_map(|token| tokenizer.token_to_id(token)));
        for name in ["generation_config.json", "config.json"] {
            ids_of(&dir.join(name))?.into_iter().for_each(|id| stop.add(id));
        }
        tokenizer.closing_token_id().into_iter().for_each(|id| stop.add(id));
        Ok(stop)
    }

    /// All of them.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The one that is put at the end of a training text: the tokenizer's `eos_token` where it has one.
    pub fn first(&self) -> Option<u32> {
        self.ids.first().copied()
    }

    /// Whether `id` ends a text.
    pub fn contains(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    fn add(&mut self, id: u32) {
        if !self.contains(id) {
            self.ids.push(id);
        }
    }
}

/// `eos_token_id` of a JSON file. No file, no key, null and -1 (of old files) are none.
fn ids_of(path: &Path) -> Result<Vec<u32>> {
    let json = match std::fs::read(path) {
        Ok(json) => json,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LlamaError::io(path)(error)),
    };
    let object: Map<String, Value> = serde_json::from_slice(&json).map_err(LlamaError::json(path))?;
    let value = object.get("eos_token_id").unwrap_or(&Value::Null);
    let values = match value {
        Value::Null => &[],
        Value::Array(values) => values.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut ids = Vec::new();
    for id in values.iter().filter(|id| id.as_i64() != Some(-1)) {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| LlamaError::Config {
            path: path.to_path_buf(),
            problems: vec![format!("eos_token_id: must be a token id or a list of them, but is {value}")],
        })?;
        ids.push(id);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const JSON: &str = include_str!("../../tests/fixtures/tokenizer/tokenizer.json");

    fn stop(files: &[(&str, &str)]) -> Result<Vec<u32>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), JSON).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        Ok(StopTokens::from_dir(dir.path(), &Tokenizer::from_dir(dir.path())?)?.ids().to_vec())
    }

    #[test]
    fn every_file_has_a_say() {
        assert_eq!(stop(&[]).unwrap(), Vec::<u32>::new());
        assert_eq!(stop(&[("config.json", r#"{"eos_token_id": 5}"#)]).unwrap(), [5]);
        let generation = ("generation_config.json", r#"{"eos_token_id": [7, 5, -1]}"#);
        assert_eq!(stop(&[("config.json", r#"{"eos_token_id": 5}"#), generation]).unwrap(), [7, 5]);
        let map = ("special_tokens_map.json", r#"{"eos_token": "<|eot_id|>"}"#);
        assert_eq!(stop(&[map]).unwrap(), [317]);
        let object = ("special_tokens_map.json", r#"{"eos_token": {"content": "<|im_end|>"}}"#);
        let config = ("tokenizer_config.json", r#"{"eos_token": {"content": "<|eot_id|>"}}"#);
        assert_eq!(stop(&[generation, object, config]).unwrap(), [319, 317, 7, 5]);
        assert_eq!(stop(&[("config.json", r#"{"eos_token_id": null}"#)]).unwrap(), Vec::<u32>::new());
    }

    #[test]
    fn what_is_no_id_is_named() {
        let error = stop(&[("generation_config.json", r#"{"eos_token_id": "</s>"}"#)]).unwrap_err().to_string();
        assert!(error.contains("generation_config.json: eos_token_id: must be a token id"), "{error}");
    }
}
