//! Text to token ids and back, from the `tokenizer.json` of a model directory.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::Path;

use super::added::AddedTokens;
use super::beside::Beside;
use super::class::{Class, PlainFlags};
use super::special::SpecialTokens;
use super::whole_json;
use crate::error::{LlamaError, Result};

/// A token of a text.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub id: u32,
    /// Where it lies in the text, in bytes. The tokens of one character all have that character's place.
    pub place: Range<usize>,
    /// Whether it is white space only.
    pub blank: bool,
}

/// A Hugging Face fast tokenizer, which gives the ids that Transformers 5 gives.
///
/// As there, a `tokenizer_class` that brings its own way of splitting text (`LlamaTokenizer`, `Qwen2Tokenizer`, ...) takes the
/// vocabulary alone from the file. Otherwise `tokenizer.json` decides which special tokens an encoding is framed with
/// (`add_bos_token` of `tokenizer_config.json` is not looked at), its truncation and padding are off, and special tokens that
/// only `tokenizer_config.json` names join the vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    pub(super) origin: String,
    /// Of the bytes that it was made of.
    digest: u64,
    /// A token that text must not hold (`<FILL_ME>` of Code Llama).
    refused: Option<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where there is one, `tokenizer_config.json` of a model directory.
    ///
    /// # Errors
    /// [`LlamaError::Io`] or [`LlamaError::Tokenizer`] with the file at fault, [`LlamaError::TokenizerClass`].
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join("tokenizer.json");
        if !path.exists() && dir.as_ref().join("tokenizer.model").exists() {
            let message = "missing, there is only a tokenizer.model; convert it with transformers: \
                           AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
            return Err(LlamaError::Tokenizer { origin: path.display().to_string(), message: message.into() });
        }
        let tokenizer = std::fs::read(&path).map_err(LlamaError::io(&path))?;
        Self::new(&tokenizer, Beside::from_dir(dir.as_ref())?, dir.as_ref(), path.display().to_string())
    }

    /// Reads the contents of `tokenizer.json` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`LlamaError::Tokenizer`], [`LlamaError::TokenizerClass`] or [`LlamaError::Json`].
    pub fn from_bytes(tokenizer_json: &[u8], tokenizer_config_json: Option<&[u8]>) -> Result<Self> {
        let config = match tokenizer_config_json {
            Some(json) => serde_json::from_slice(json).map_err(LlamaError::json("tokenizer_config.json"))?,
            None => Default::default(),
        };
        let beside = Beside { config, ..Beside::default() };
        Self::new(tokenizer_json, beside, Path::new(""), "tokenizer.json".into())
    }

    /// `dir` is where the files lie, and `origin` names `tokenizer.json`.
    fn new(tokenizer_json: &[u8], mut beside: Beside, dir: &Path, origin: String) -> Result<Self> {
        let unusable = |message: String| LlamaError::Tokenizer {
            origin: origin.clone(),
            message: format!("not a usable tokenizer: {message}"),
        };
        let failed = |error: tokenizers::Error| unusable(error.to_string());
        // The tokenizers crate panics where the text of its decoder is no JSON.
        whole_json::check(tokenizer_json).map_err(|error| failed(error.into()))?;
        let class = Class::of(&beside, tokenizer_json).map_err(|class| LlamaError::TokenizerClass {
            path: dir.join("tokenizer_config.json"),
            class,
            supported: Class::names(),
        })?;
        if let Some(class) = &class {
            beside.config.extend(class.defaults(&beside));
        }
        let special = SpecialTokens::of(&beside.config, &beside.map, dir)?;
        let rewritten = class.as_ref().map(|class| class.rewrite(tokenizer_json, &special)).transpose();
        let rewritten = rewritten.map_err(unusable)?;
        let (tokenizer_json, of_file) =
            rewritten.as_ref().map_or((tokenizer_json, &[][..]), |new| (new.json.as_slice(), new.added.as_slice()));
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(failed)?;
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let plain = class.as_ref().map_or(PlainFlags::No, Class::plain_flags);
        AddedTokens::of(&beside, of_file, plain).add_to(&mut inner).map_err(failed)?;
        if let Some(class) = &class {
            class.frame(&mut inner, &special).map_err(unusable)?;
        }
        let refused = class.and_then(|class| class.refused(&beside.config));
        let mut digest = DefaultHasher::new();
        tokenizer_json.hash(&mut digest);
        let mut tokens: Vec<_> = inner.get_added_tokens_decoder().into_iter().collect();
        tokens.sort_by_key(|(id, _)| *id);
        let framed = serde_json::to_string(&inner.get_post_processor()).unwrap_or_default();
        format!("{tokens:?} {} {framed}", inner.get_encode_special_tokens()).hash(&mut digest);
        Ok(Self { inner, special, origin, digest: digest.finish(), refused })
    }

    /// Adds what the tokens of a text depend on.
    pub(super) fn hash_source(&self, hash: &mut impl Hasher) {
        self.digest.hash(hash);
        self.special.hash(hash);
    }

    /// The ids of `text`. Special tokens that stand in the text are recognised; `add_special_tokens` also frames it
    /// with those of `tokenizer.json`'s post-processor (Llama-3's begin-of-text), which a rendered chat template
    /// already holds.
    ///
    /// # Errors
    /// [`LlamaError::Tokenizer`], for text that the tokenizer's model cannot represent.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        self.check(text)?;
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(|error| self.error(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of `text` and where they lie in it. Special tokens that stand in the text are recognised.
    pub(super) fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        self.check(text)?;
        let encoding = self.inner.encode(text, false).map_err(|error| self.error(error))?;
        let token = |(&id, &(start, end)): (&u32, &(usize, usize))| {
            let blank = text.get(start..end).is_some_and(|said| said.trim().is_empty());
            Token { id, place: start..end, blank }
        };
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(token).collect())
    }

    /// Refuses text that the tokenizer's class would put in another order.
    fn check(&self, text: &str) -> Result<()> {
        match &self.refused {
            Some(token) if text.contains(token.as_str()) => Err(LlamaError::Tokenizer {
                origin: self.origin.clone(),
                message: format!(
                    "texts to fill in, with {token}, are not supported; write the tokens round the parts yourself"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The text of `ids`, without the special tokens if `skip_special_tokens`. Ids outside the vocabulary are
    /// nothing, and bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`LlamaError::Tokenizer`], where the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| self.error(error))
    }

    /// The special tokens that `tokenizer_config.json` names.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The id of `bos_token`.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.special.get("bos_token").and_then(|token| self.token_to_id(token))
    }

    /// The id of `eos_token`.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.special.get("eos_token").and_then(|token| self.token_to_id(token))
    }

    /// The id of `pad_token`.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.special.get("pad_token").and_then(|token| self.token_to_id(token))
    }

    /// The special token that `tokenizer.json`'s post-processor puts behind a text, where it does (T5's manner).
    pub fn closing_token_id(&self) -> Option<u32> {
        let (framed, plain) = (self.encode("a", true).ok()?, self.encode("a", false).ok()?);
        let last = *framed.last()?;
        (plain.last() != Some(&last) && self.is_special(last)).then_some(last)
    }

    /// The text of a special token, which is recognised where it stands in a text.
    pub(crate) fn special_text(&self, id: u32) -> Option<String> {
        self.is_special(id).then(|| self.inner.id_to_token(id)).flatten()
    }

    /// Whether `id` is a special token, one that `skip_special_tokens` leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    pub(crate) fn error(&self, error: tokenizers::Error) -> LlamaError {
        LlamaError::Tokenizer { origin: self.origin.clone(), message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    const JSON: &[u8] = include_bytes!("../../tests/fixtures/tokenizer/tokenizer.json");
    const CONFIG: &[u8] = include_bytes!("../../tests/fixtures/tokenizer/tokenizer_config.json");

    #[test]
    fn ids_and_text_are_those_of_transformers() {
        let tokenizer = Tokenizer::from_bytes(JSON, Some(CONFIG)).unwrap();
        let cases: Value = serde_json::from_str(include_str!("../../tests/fixtures/chat.json")).unwrap();
        for case in cases["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(json!(ids), case["ids"], "{text:?}");
            assert_eq!(json!(tokenizer.encode(text, false).unwrap()), case["plain_ids"], "{text:?}");
            assert_eq!(json!(tokenizer.decode(&ids, true).unwrap()), case["decoded"]);
        }
    }

    #[test]
    fn special_tokens_are_read_as_strings_and_as_objects() {
        let tokenizer = Tokenizer::from_bytes(JSON, Some(CONFIG)).unwrap();
        assert_eq!(tokenizer.special_tokens().get("eos_token"), Some("<|eot_id|>"));
        assert_eq!(tokenizer.bos_token_id(), tokenizer.token_to_id("<|begin_of_text|>"));
        assert_eq!((tokenizer.eos_token_id(), tokenizer.pad_token_id()), (Some(317), Some(320)));
        let bare = Tokenizer::from_bytes(JSON, None).unwrap();
        assert_eq!((bare.bos_token_id(), bare.eos_token_id(), bare.pad_token_id()), (None, None, None));
    }

    #[test]
    fn a_special_token_that_only_the_config_names_joins_the_vocabulary() {
        let tokenizer = Tokenizer::from_bytes(JSON, Some(br#"{"pad_token": "<new>"}"#)).unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.pad_token_id()), (322, Some(321)));
        assert_eq!(tokenizer.encode("<new>", false).unwrap(), [321]);
        assert_eq!(tokenizer.decode(&[321], true).unwrap(), "");
    }

    #[test]
    fn tokens_beyond_the_models_embeddings_are_said() {
        let tokenizer = Tokenizer::from_bytes(JSON, Some(CONFIG)).unwrap();
        assert_eq!(tokenizer.beyond(tokenizer.vocab_size()), None);
        assert_eq!(tokenizer.beyond(1000), None);
        let said = tokenizer.beyond(320).unwrap();
        assert!(said.starts_with("1 tokens of tokenizer.json are beyond the model's 320 embeddings"), "{said}");
        assert!(said.contains("\"<pad>\" (id 320)"), "{said}");
        assert_eq!(tokenizer.id_to_token(320).as_deref(), Some("<pad>"));
    }

    #[test]
    fn ids_outside_the_vocabulary_decode_to_nothing() {
        let tokenizer = Tokenizer::from_bytes(JSON, None).unwrap();
        assert_eq!(tokenizer.decode(&[64, 9999, 65], false).unwrap(), "ab");
    }

    #[test]
    fn unusable_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |dir: &Path| Tokenizer::from_dir(dir).unwrap_err().to_string();
        assert!(error(dir.path()).contains("tokenizer.json: "), "{}", error(dir.path()));
        std::fs::write(dir.path().join("tokenizer.model"), "").unwrap();
        assert!(error(dir.path()).contains("save_pretrained"), "{}", error(dir.path()));
        std::fs::write(dir.path().join("tokenizer.json"), &JSON[..JSON.len() / 2]).unwrap();
        assert!(error(dir.path()).contains("tokenizer.json: not a usable tokenizer: "), "{}", error(dir.path()));
        let text = String::from_utf8(JSON.to_vec()).unwrap();
        for broken in ["\\", "[\"\\ud800\"], \"more\":", "[1e999], \"more\":"] {
            let text = text.replace("\"decoder\":", &format!("\"decoder\": {broken}"));
            std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
            assert!(error(dir.path()).contains("tokenizer.json: not a usable tokenizer: "), "{}", error(dir.path()));
        }
        std::fs::write(dir.path().join("tokenizer.json"), JSON).unwrap();
        assert!(Tokenizer::from_dir(dir.path()).is_ok());
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"bos_token": 1, "eos_token": {}}"#).unwrap();
        let message = error(dir.path());
        assert!(message.contains("bos_token must be a string or an object with content, but is 1"), "{message}");
        assert!(message.contains("eos_token must be a string or an object with content, but is {}"), "{message}");
    }
}
