//! Transformers 5's class `LlamaTokenizer`, which takes the vocabulary and the merges out of `tokenizer.json`, and not how text
//! is taken apart and put together again: that it brings itself.

use serde_json::{Map, Value, json};

use super::special::SpecialTokens;

/// Families for which Transformers never takes this class, whatever is named: their `tokenizer.json` stays as it is, for Qwen 2 under a
/// class of its own.
const OTHER_FAMILIES: [&str; 5] = ["mistral", "qwen2", "phi3", "olmo2", "granite"];

/// What the class is told by `tokenizer_config.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LlamaClass {
    /// Whether every piece of text between special tokens gets a space in front, and not the first one alone.
    legacy: bool,
    /// Whether text gets a space in front at all.
    add_prefix_space: bool,
    /// Whether `added_tokens_decoder` takes the place of the tokens that `tokenizer.json` adds.
    lists_tokens: bool,
    /// Special tokens of the class, where no file names or unsets them.
    defaults: Vec<(&'static str, &'static str)>,
}

impl LlamaClass {
    /// Of the contents of `tokenizer_config.json`, `special_tokens_map.json` and `config.json`; `None` where another class reads the
    /// tokenizer.
    pub(super) fn of(
        config: &Map<String, Value>,
        map: &Map<String, Value>,
        model: &Map<String, Value>,
    ) -> Option<Self> {
        let name = |object: &Map<String, Value>| object.get("tokenizer_class")?.as_str().map(str::to_owned);
        let class = name(config).or_else(|| name(model))?;
        let family = model.get("model_type").and_then(Value::as_str).unwrap_or_default();
        if class.strip_suffix("Fast").unwrap_or(&class) != "LlamaTokenizer" || OTHER_FAMILIES.contains(&family) {
            return None;
        }
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let unnamed = |(key, _): &(&str, &str)| !config.contains_key(*key) && !map.contains_key(*key);
        Some(Self {
            legacy: flag("legacy").unwrap_or(false),
            add_prefix_space: flag("add_prefix_space").unwrap_or(true),
            lists_tokens: config.contains_key("added_tokens_decoder"),
            defaults: [("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")]
                .into_iter()
                .filter(unnamed)
                .collect(),
        })
    }

    /// `tokenizer.json` with the pipeline of the class; `None` for one that the class does not take: of bytes (Llama 3), or
    /// without merges.
    pub(super) fn rewrite(&self, tokenizer_json: &[u8], special: &mut SpecialTokens) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(tokenizer_json).ok()?;
        if text.contains("\"ByteLevel\"") {
            return None;
        }
        let mut tokenizer: Value = serde_json::from_str(text).ok()?;
        let model = tokenizer.get("model")?;
        let (vocab, merges) = (model.get("vocab")?, model.get("merges")?);
        if !vocab.is_object() {
            return None;
        }
        let model = json!({
            "type": "BPE", "vocab": vocab, "merges": merges, "fuse_unk": true, "byte_fallback": true, "dropout": null,
            "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "ignore_merges": false,
        });
        let scheme = match (self.add_prefix_space, self.legacy) {
            (true, true) => "always",
            (true, false) => "first",
            (false, _) => "never",
        };
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.add_prefix_space {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        special.add_missing(&self.defaults);
        let parts = tokenizer.as_object_mut()?;
        parts.insert("model".into(), model);
        parts.insert("normalizer".into(), Value::Null);
        let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false });
        parts.insert("pre_tokenizer".into(), metaspace);
        parts.insert("decoder".into(), json!({ "type": "Sequence", "decoders": decoders }));
        if self.lists_tokens {
            parts.insert("added_tokens".into(), Value::Array(Vec::new()));
        }
        serde_json::to_vec(&tokenizer).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn class(config: Value, model: Value) -> Option<LlamaClass> {
        LlamaClass::of(config.as_object().unwrap(), &Map::new(), model.as_object().unwrap())
    }

    #[test]
    fn the_class_is_that_of_transformers() {
        let llama = json!({ "model_type": "llama" });
        assert!(class(json!({ "tokenizer_class": "LlamaTokenizerFast" }), llama.clone()).is_some());
        assert!(class(json!({}), json!({ "model_type": "llama", "tokenizer_class": "LlamaTokenizer" })).is_some());
        assert!(class(json!({ "tokenizer_class": "LlamaTokenizer" }), json!({})).is_some());
        assert!(class(json!({ "tokenizer_class": "PreTrainedTokenizerFast" }), llama.clone()).is_none());
        assert!(class(json!({}), llama).is_none());
        // There Mistral's files are taken as they are.
        assert!(class(json!({ "tokenizer_class": "LlamaTokenizer" }), json!({ "model_type": "mistral" })).is_none());
    }

    #[test]
    fn tokenizers_of_bytes_and_without_merges_stay_as_they_are() {
        let class = class(json!({ "tokenizer_class": "LlamaTokenizer" }), json!({})).unwrap();
        let mut special = SpecialTokens::default();
        for json in [
            json!({ "model": { "vocab": {}, "merges": [] }, "decoder": { "type": "ByteLevel" } }),
            json!({ "model": { "vocab": {}, "merges": [] }, "pre_tokenizer": { "pretokenizers": [{ "type": "ByteLevel" }] } }),
            json!({ "model": { "vocab": [["a", 0.0]], "merges": [] } }),
            json!({ "model": { "vocab": {} } }),
            json!([]),
        ] {
            assert_eq!(class.rewrite(json.to_string().as_bytes(), &mut special), None, "{json}");
        }
        assert_eq!(special, SpecialTokens::default());
    }

    #[test]
    fn tokens_of_the_class_have_its_names() {
        let class = class(json!({ "tokenizer_class": "LlamaTokenizer", "bos_token": null }), json!({})).unwrap();
        let mut special = SpecialTokens::default();
        let json = json!({ "model": { "vocab": { "a": 0 }, "merges": [] }, "added_tokens": [] });
        assert!(class.rewrite(json.to_string().as_bytes(), &mut special).is_some());
        assert_eq!((special.get("bos_token"), special.get("eos_token")), (None, Some("</s>")));
    }
}
