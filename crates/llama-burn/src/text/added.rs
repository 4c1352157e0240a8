//! Tokens that the files beside `tokenizer.json` add to the vocabulary, or give other flags.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::beside::Beside;
use super::class::PlainFlags;
use super::special::KEYS;

/// Tokens in the order in which Transformers 5 adds them.
#[derive(Clone, Debug, Default)]
pub(super) struct AddedTokens {
    /// Of `added_tokens_decoder` or `added_tokens.json`: their flags count before those of `tokenizer.json`.
    listed: Vec<AddedToken>,
    /// Named in the configuration under some `*_token`.
    special: Vec<AddedToken>,
    /// Those of `extra_special_tokens` or `additional_special_tokens`.
    extra: Vec<AddedToken>,
    /// Tokens that are added again at the end, which takes their flags from them.
    plain: Vec<AddedToken>,
    /// `split_special_tokens`: text that looks like a special token is text.
    split_special: bool,
}

impl AddedTokens {
    /// Of the files beside `tokenizer.json`, and the tokens of that file itself where its class takes these from it.
    pub(super) fn of(beside: &Beside, of_file: &[Value], plain: PlainFlags) -> Self {
        let none = Map::new();
        let (config, map) = (&beside.config, if beside.lists_tokens() { &none } else { &beside.map });
        let list = |object: &Map<String, Value>, key: &str| -> Vec<Value> {
            match object.get(key) {
                Some(Value::Array(tokens)) => tokens.clone(),
                Some(Value::Object(tokens)) => tokens.values().cloned().collect(),
                _ => Vec::new(),
            }
        };
        let named = KEYS.iter().filter_map(|key| map.get(*key).or_else(|| config.get(*key)));
        let own_names = config
            .iter()
            .filter(|(key, value)| key.ends_with("_token") && !KEYS.contains(&key.as_str()) && value.is_string());
        let special: Vec<_> = named.chain(own_names.map(|(_, value)| value)).filter_map(special_token).collect();
        // The older name counts where the newer one says nothing.
        let keys = [
            (config, "extra_special_tokens"),
            (config, "additional_special_tokens"),
            (map, "additional_special_tokens"),
        ];
        let lists = keys.into_iter().map(|(object, key)| list(object, key)).find(|tokens| !tokens.is_empty());
        let mut extra = lists.unwrap_or_default();
        extra.extend(list(map, "extra_special_tokens"));
        let by_text: Vec<AddedToken> =
            extra.iter().filter(|token| token.is_string()).filter_map(special_token).collect();
        let extra: Vec<AddedToken> = extra.iter().filter_map(special_token).collect();
        let plain = match plain {
            PlainFlags::No => Vec::new(),
            PlainFlags::All => {
                special.iter().chain(&extra).map(|token| AddedToken::from(token.content.clone(), true)).collect()
            }
            PlainFlags::Extra => by_text,
        };
        let split_special = config.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false);
        Self { listed: listed(beside, of_file, &special, &extra), special, extra, plain, split_special }
    }

    /// Adds them, the special ones where the vocabulary does not have them as tokens of their own.
    pub(super) fn add_to(self, tokenizer: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        tokenizer.add_tokens(self.listed)?;
        let present = tokenizer.get_added_vocabulary().get_vocab().clone();
        let mut new: Vec<AddedToken> = Vec::new();
        for token in self.special.into_iter().chain(self.extra) {
            if !present.contains_key(&token.content) && !new.iter().any(|known| known.content == token.content) {
                new.push(token);
            }
        }
        tokenizer.add_special_tokens(new)?;
        tokenizer.add_special_tokens(self.plain)?;
        tokenizer.set_encode_special_tokens(self.split_special);
        Ok(())
    }
}

/// The tokens that files list with their ids, in the order of these: of `added_tokens_decoder` or else of `added_tokens.json` and
/// `tokenizer.json`, of which the latter comes first where both have an id.
fn listed(beside: &Beside, of_file: &[Value], special: &[AddedToken], extra: &[AddedToken]) -> Vec<AddedToken> {
    let is_named = |content: &str| special.iter().any(|token| token.content == content);
    let is_special = |content: &str| is_named(content) || extra.iter().any(|token| token.content == content);
    let with_own_flags = |token: &Value| {
        let content = token.get("content")?.as_str()?;
        let flag = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        Some(with_flags(content, token, flag || is_named(content)))
    };
    let mut listed: BTreeMap<u64, AddedToken> = BTreeMap::new();
    match beside.config.get("added_tokens_decoder").and_then(Value::as_object) {
        Some(tokens) => {
            listed.extend(tokens.iter().filter_map(|(id, token)| Some((id.parse().ok()?, with_own_flags(token)?))));
        }
        None => {
            let token = |content: &str| AddedToken::from(content, is_special(content));
            listed.extend(beside.added.iter().filter_map(|(content, id)| Some((id.as_u64()?, token(content)))));
            listed
                .extend(of_file.iter().filter_map(|token| Some((token.get("id")?.as_u64()?, with_own_flags(token)?))));
        }
    }
    listed.into_values().collect()
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
