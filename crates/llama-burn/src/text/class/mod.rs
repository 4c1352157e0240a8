//! Transformers 5's tokenizer classes, which take the vocabulary and the merges out of `tokenizer.json`, and not how text is taken
//! apart and put together again: that they bring themselves.

mod choice;
mod table;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};
use tokenizers::processors::PostProcessorWrapper;

pub(super) use self::table::PlainFlags;
use self::table::{Frame, Kind, Settings};
use super::beside::Beside;
use super::special::SpecialTokens;

/// The class of a tokenizer, and what `tokenizer_config.json` tells it.
#[derive(Clone, Debug)]
pub(super) struct Class {
    kind: &'static Kind,
    settings: Settings,
}

/// `tokenizer.json` as a class rewrites it.
pub(super) struct Rewritten {
    /// The tokenizer, without added tokens.
    pub json: Vec<u8>,
    /// The tokens that `tokenizer.json` adds.
    pub added: Vec<Value>,
}

impl Class {
    /// The class that Transformers reads these files with; `None` where it takes `tokenizer.json` as it is.
    ///
    /// # Errors
    /// The name of a class that is not supported.
    pub(super) fn of(beside: &Beside, tokenizer_json: &[u8]) -> Result<Option<Self>, String> {
        let kind = choice::kind(&beside.config, &beside.model, tokenizer_json)?;
        let flag = |key: &str| beside.config.get(key).and_then(Value::as_bool);
        Ok(kind.map(|kind| Self {
            kind,
            settings: Settings {
                prefix_space: flag("add_prefix_space").unwrap_or(kind.prefix_space),
                legacy: flag("legacy").unwrap_or(false),
                trim_offsets: flag("trim_offsets").unwrap_or(true),
            },
        }))
    }

    /// The names of all that are supported.
    pub(super) fn names() -> Vec<&'static str> {
        table::CLASSES.iter().map(|kind| kind.name).collect()
    }

    /// Its special tokens, where no file names or unsets them.
    pub(super) fn defaults(&self, beside: &Beside) -> Map<String, Value> {
        let unnamed = |(key, _): &&(&str, &str)| !beside.config.contains_key(*key) && !beside.map.contains_key(*key);
        self.kind.tokens.iter().filter(unnamed).map(|(key, token)| ((*key).to_owned(), Value::from(*token))).collect()
    }

    /// `tokenizer.json` with the pipeline of the class.
    ///
    /// # Errors
    /// A file without a vocabulary.
    pub(super) fn rewrite(&self, tokenizer_json: &[u8], special: &SpecialTokens) -> Result<Rewritten, String> {
        let mut parts: Map<String, Value> =
            serde_json::from_slice(tokenizer_json).map_err(|error| error.to_string())?;
        let name = self.kind.name;
        let Some(Value::Object(mut old)) = parts.remove("model") else {
            return Err(format!("{name} takes its vocabulary from `model`, which is missing"));
        };
        let vocab = match old.remove("vocab") {
            Some(Value::Object(vocab)) => vocab,
            // A list of tokens with scores, of Unigram: the place of a token is its id.
            Some(Value::Array(list)) => list
                .iter()
                .enumerate()
                .filter_map(|(id, token)| {
                    Some((token.as_str().or_else(|| token.get(0)?.as_str())?.to_owned(), id.into()))
                })
                .collect(),
            _ => return Err(format!("{name} takes its vocabulary from `model.vocab`, which is missing")),
        };
        let unknown = if self.kind.unknown { special.get("unk_token").or(Some("None")) } else { None };
        let merges = old.remove("merges").filter(Value::is_array).unwrap_or_else(|| json!([]));
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": self.kind.fallback, "byte_fallback": self.kind.fallback,
            "ignore_merges": false, "vocab": vocab, "merges": merges,
        });
        let pipeline = (self.kind.pipeline)(&self.settings);
        parts.insert("model".into(), model);
        parts.insert("normalizer".into(), pipeline.normalizer);
        parts.insert("pre_tokenizer".into(), pipeline.pre_tokenizer);
        parts.insert("decoder".into(), pipeline.decoder);
        if self.kind.frame != Frame::OfFile {
            parts.insert("post_processor".into(), Value::Null);
        }
        let added = match parts.insert("added_tokens".into(), json!([])) {
            Some(Value::Array(tokens)) => tokens,
            _ => Vec::new(),
        };
        Ok(Rewritten { json: serde_json::to_vec(&parts).map_err(|error| error.to_string())?, added })
    }

    /// The special tokens that lose the flags that files give them.
    pub(super) fn plain_flags(&self) -> PlainFlags {
        self.kind.plain_flags
    }

    /// A token that text must not hold, as the class then puts its parts in another order.
    pub(super) fn refused(&self, config: &Map<String, Value>) -> Option<String> {
        config.get(self.kind.refused?)?.as_str().map(str::to_owned)
    }

    /// Puts the special tokens round texts that the class puts there, once all tokens are known.
    ///
    /// # Errors
    /// A token that is needed and not named.
    pub(super) fn frame(&self, tokenizer: &mut tokenizers::Tokenizer, special: &SpecialTokens) -> Result<(), String> {
        let named = |key: &str| {
            let token = special.get(key)?;
            Some((token.to_owned(), tokenizer.token_to_id(token)?))
        };
        let processor = match self.kind.frame {
            Frame::OfFile | Frame::Nothing => return Ok(()),
            Frame::Bos => {
                let Some((token, id)) = named("bos_token") else { return Ok(()) };
                let first = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
                json!({
                    "type": "TemplateProcessing",
                    "single": [first, { "Sequence": { "id": "A", "type_id": 0 } }],
                    "pair": [first, { "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
                    "special_tokens": { token.clone(): { "id": token, "ids": [id], "tokens": [token] } },
                })
            }
            Frame::Roberta => {
                let needed = |key: &str| named(key).ok_or_else(|| format!("{} needs a {key}", self.kind.name));
                json!({
                    "type": "RobertaProcessing", "sep": needed("sep_token")?, "cls": needed("cls_token")?,
                    "trim_offsets": self.settings.trim_offsets, "add_prefix_space": self.settings.prefix_space,
                })
            }
        };
        let processor: PostProcessorWrapper = serde_json::from_value(processor).map_err(|error| error.to_string())?;
        tokenizer.with_post_processor(Some(processor));
        Ok(())
    }
}
