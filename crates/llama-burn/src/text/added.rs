//! Tokens that the files beside `tokenizer.json` add to the vocabulary, or give other flags.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::special::{KEYS, SpecialTokens};

/// Tokens in the order in which Transformers 5 adds them.
#[derive(Clone, Debug, Default)]
pub(super) struct AddedTokens {
    /// Of `added_tokens_decoder` or `added_tokens.json`: their flags count before those of `tokenizer.json`.
    listed: Vec<AddedToken>,
    /// Named in the configuration under some `*_token`, or as `extra_special_tokens` or `additional_special_tokens`.
    special: Vec<AddedToken>,
    /// `split_special_tokens`: text that looks like a special token is text.
    split_special: bool,
}

impl AddedTokens {
    /// Of the contents of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`; the last two do not count
    /// where the first lists its tokens itself (`added_tokens_decoder`).
    pub(super) fn of(config: &Map<String, Value>, map: &Map<String, Value>, added: &Map<String, Value>) -> Self {
        let none = Map::new();
        let (map, added) = if config.contains_key("added_tokens_decoder") { (&none, &none) } else { (map, added) };
        let extra = |object: &Map<String, Value>, key: &str| -> Vec<AddedToken> {
            match object.get(key) {
                Some(Value::Array(tokens)) => tokens.iter().filter_map(special_token).collect(),
                Some(Value::Object(tokens)) => tokens.values().filter_map(special_token).collect(),
                _ => Vec::new(),
            }
        };
        let named = KEYS.iter().filter_map(|key| map.get(*key).or_else(|| config.get(*key)));
        let own_names = config
            .iter()
            .filter(|(key, value)| key.ends_with("_token") && !KEYS.contains(&key.as_str()) && value.is_string());
        let mut special: Vec<_> = named.chain(own_names.map(|(_, value)| value)).filter_map(special_token).collect();
        // The older name counts where the newer one says nothing.
        let keys = [
            (config, "extra_special_tokens"),
            (config, "additional_special_tokens"),
            (map, "additional_special_tokens"),
        ];
        special.extend(
            keys.into_iter()
                .map(|(object, key)| extra(object, key))
                .find(|tokens| !tokens.is_empty())
                .unwrap_or_default(),
        );
        special.extend(extra(map, "extra_special_tokens"));
        let is_special = |content: &str| special.iter().any(|token| token.content == content);
        let mut listed: Vec<(u64, AddedToken)> = match config.get("added_tokens_decoder").and_then(Value::as_object) {
            Some(tokens) => {
                let token = |token: &Value| {
                    let content = token.get("content")?.as_str()?;
                    let flag = |key: &str| token.get(key).and_then(Value::as_bool);
                    Some(with_flags(content, token, flag("special").unwrap_or(false) || is_special(content)))
                };
                tokens.iter().filter_map(|(id, value)| Some((id.parse().ok()?, token(value)?))).collect()
            }
            None => added
                .iter()
                .filter_map(|(content, id)| {
                    Some((id.as_u64()?, AddedToken::from(content.as_str(), is_special(content))))
                })
                .collect(),
        };
        listed.sort_by_key(|(id, _)| *id);
        let split_special = config.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false);
        Self { listed: listed.into_iter().map(|(_, token)| token).collect(), special, split_special }
    }

    /// Adds them, and those of `special` that the vocabulary does not have as tokens of their own.
    pub(super) fn add_to(
        self,
        tokenizer: &mut tokenizers::Tokenizer,
        special: &SpecialTokens,
    ) -> tokenizers::Result<()> {
        tokenizer.add_tokens(self.listed)?;
        let present = tokenizer.get_added_vocabulary().get_vocab().clone();
        let others = special.iter().map(|(_, token)| AddedToken::from(token, true));
        let mut new: Vec<AddedToken> = Vec::new();
        for token in self.special.into_iter().chain(others) {
            if !present.contains_key(&token.content) && !new.iter().any(|known| known.content == token.content) {
                new.push(token);
            }
        }
        tokenizer.add_special_tokens(new)?;
        tokenizer.set_encode_special_tokens(self.split_special);
        Ok(())
    }
}

/// A special token as configurations name one: its text, or an `AddedToken` object.
fn special_token(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(content) => Some(AddedToken::from(content.as_str(), true)),
        object => Some(with_flags(object.get("content")?.as_str()?, object, true)),
    }
}

fn with_flags(content: &str, flags: &Value, special: bool) -> AddedToken {
    let flag = |key: &str| flags.get(key).and_then(Value::as_bool);
    AddedToken {
        content: content.to_owned(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use crate::text::Tokenizer;

    /// The cases are those of `tests/python/added_tokens.py`.
    #[test]
    fn tokens_of_the_files_beside_the_tokenizer_are_those_of_transformers() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let cases: Value = serde_json::from_slice(&std::fs::read(fixtures.join("added_tokens.json")).unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let folder = tempfile::tempdir().unwrap();
            std::fs::copy(fixtures.join("tokenizer/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
            for (file, content) in case["files"].as_object().unwrap() {
                std::fs::write(folder.path().join(file), content.to_string()).unwrap();
            }
            let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
            for text in case["texts"].as_array().unwrap() {
                let ids = tokenizer.encode(text["text"].as_str().unwrap(), true).unwrap();
                assert_eq!(json!(ids), text["ids"], "{} {}", case["name"], text["text"]);
            }
        }
    }
}
