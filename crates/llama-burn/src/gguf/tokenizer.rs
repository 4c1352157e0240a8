//! The tokenizer and the chat template of a GGUF file, as `tokenizer.json` and `tokenizer_config.json`.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::reader::Gguf;
use super::value::Value;
use crate::error::Result;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// Byte-level vocabularies by their `tokenizer.ggml.pre`: how text is cut, whether a whole piece is taken from the vocabulary
/// before merges, and whether texts begin with the beginning-of-text token unless the file says otherwise.
struct Cut {
    names: &'static [&'static str],
    cuts: &'static [&'static str],
    digits: bool,
    nfc: bool,
    whole: bool,
    bos: bool,
}

const CUTS: &[Cut] = &[
    Cut {
        names: &["llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"],
        cuts: &[LLAMA3],
        digits: false,
        nfc: false,
        whole: true,
        bos: true,
    },
    Cut { names: &["qwen2", "deepseek-r1-qwen"], cuts: &[QWEN2], digits: false, nfc: true, whole: false, bos: false },
    Cut { names: &["tekken"], cuts: &[TEKKEN], digits: false, nfc: false, whole: true, bos: true },
    Cut { names: &["smollm", "refact"], cuts: &[], digits: true, nfc: false, whole: false, bos: false },
    Cut { names: &["gpt-2", "gpt2"], cuts: &[], digits: false, nfc: false, whole: false, bos: false },
    Cut {
        names: &["default"],
        cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        digits: false,
        nfc: false,
        whole: false,
        bos: false,
    },
];

/// Types of tokens.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER: u64 = 4;
const BYTE: u64 = 6;

/// The tokenizer's files, made from a GGUF file.
#[derive(Debug)]
pub(super) struct TextFiles {
    pub tokenizer: Json,
    pub config: Json,
}

/// The files of `file`'s tokenizer; `None` where it has none.
///
/// # Errors
/// A tokenizer that is not known, or whose parts do not fit.
pub(super) fn read(file: &Gguf) -> Result<Option<TextFiles>> {
    let get = |key: &str| file.get(&format!("tokenizer.ggml.{key}"));
    let Some(model) = get("model").and_then(Value::as_str).filter(|model| *model != "none") else { return Ok(None) };
    let tokens: Vec<&str> =
        texts(get("tokens")).ok_or_else(|| file.error("tokenizer.ggml.tokens is no list of texts"))?;
    let types: Vec<u64> = match get("token_type").and_then(Value::as_list) {
        Some(types) => types.iter().map(|kind| kind.as_u64().unwrap_or(1)).collect(),
        None => vec![1; tokens.len()],
    };
    if types.len() != tokens.len() {
        return Err(file.error(format!("it has {} tokens and {} types of tokens", tokens.len(), types.len())));
    }
    let vocab = Vocabulary { tokens: &tokens, types: &types };
    let (mut tokenizer, bos) = match model {
        "gpt2" => byte_level(file, &vocab)?,
        "llama" => (sentence_piece(file, &vocab)?, true),
        _ => {
            return Err(file.error(format!(
                "tokenizer.ggml.model is `{model}`; gpt2 and llama are known. Give the model's Hugging Face directory"
            )));
        }
    };
    let id = |key: &str| get(key).and_then(Value::as_u64).filter(|id| (*id as usize) < tokens.len());
    let flag = |key: &str, default| get(key).and_then(Value::as_bool).unwrap_or(default);
    let frame = |on: bool, key: &str| on.then(|| id(key)).flatten().map(|id| (tokens[id as usize], id));
    let before = frame(flag("add_bos_token", bos), "bos_token_id");
    let after = frame(flag("add_eos_token", false), "eos_token_id");
    tokenizer["post_processor"] = framing(before, after, &tokenizer["post_processor"]);
    tokenizer["added_tokens"] = vocab.added();
    // What is written is all that the file says: no class of Transformers adds to it.
    let mut config = Map::from_iter([("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into())]);
    for (key, name) in [
        ("bos_token_id", "bos_token"),
        ("eos_token_id", "eos_token"),
        ("unknown_token_id", "unk_token"),
        ("padding_token_id", "pad_token"),
    ] {
        config.extend(id(key).map(|id| (name.to_owned(), tokens[id as usize].into())));
    }
    if let Some(template) = file.get("tokenizer.chat_template").and_then(Value::as_str) {
        config.insert("chat_template".into(), template.into());
    }
    Ok(Some(TextFiles { tokenizer, config: config.into() }))
}

/// The `tokenizer.ggml.pre` of a byte-level `tokenizer.json`; `None` where llama.cpp has none that cuts texts so.
pub(super) fn pre_of(tokenizer: &Json) -> Option<&'static str> {
    let steps = match &tokenizer["pre_tokenizer"] {
        json if json["type"] == "Sequence" => json["pretokenizers"].as_array()?.clone(),
        json => vec![json.clone()],
    };
    let bytes = steps.iter().find(|step| step["type"] == "ByteLevel")?;
    let cuts: Vec<&str> = steps.iter().filter_map(|step| step["pattern"]["Regex"].as_str()).collect();
    let digits = steps.iter().any(|step| step["type"] == "Digits");
    let fits = |cut: &&Cut| {
        let regex = bytes["use_regex"].as_bool().unwrap_or(true);
        cut.cuts == cuts.as_slice() && cut.digits == digits && regex == cuts.is_empty()
    };
    CUTS.iter().find(fits).map(|cut| cut.names[0])
}

fn texts(value: Option<&Value>) -> Option<Vec<&str>> {
    value?.as_list()?.iter().map(Value::as_str).collect()
}

struct Vocabulary<'a> {
    tokens: &'a [&'a str],
    types: &'a [u64],
}

impl Vocabulary<'_> {
    /// Tokens with their ids. Of tokens of one text the first counts.
    fn ids(&self) -> Map<String, Json> {
        let mut ids = Map::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(*token).or_insert_with(|| id.into());
        }
        ids
    }

    /// Tokens that are found in a text as they are.
    fn added(&self) -> Json {
        let all = self.tokens.iter().zip(self.types).enumerate();
        let added = all.filter(|(_, (token, kind))| matches!(**kind, CONTROL | USER | UNKNOWN) && !token.is_empty());
        let one = |(id, (token, kind)): (usize, (&&str, &u64))| {
            json!({"id": id, "content": token, "special": *kind != USER, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        };
        added.map(one).collect::<Vec<_>>().into()
    }
}

/// A byte-level BPE, and whether its texts begin with the beginning-of-text token.
fn byte_level(file: &Gguf, vocab: &Vocabulary<'_>) -> Result<(Json, bool)> {
    let pre = file.get("tokenizer.ggml.pre").and_then(Value::as_str).unwrap_or("default");
    let Some(cut) = CUTS.iter().find(|cut| cut.names.contains(&pre)) else {
        let known = CUTS.iter().flat_map(|cut| cut.names).copied().collect::<Vec<_>>().join(", ");
        return Err(file.error(format!(
            "tokenizer.ggml.pre is `{pre}`, which is not known (known: {known}). Give the model's Hugging Face directory"
        )));
    };
    let merges = texts(file.get("tokenizer.ggml.merges"));
    let merges = merges.ok_or_else(|| file.error("tokenizer.ggml.merges is no list of texts"))?;
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Json> = cut.cuts.iter().map(|regex| split(regex)).collect();
    steps.extend(cut.digits.then(|| json!({"type": "Digits", "individual_digits": true})));
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": regex});
    steps.push(bytes(cut.cuts.is_empty()));
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": if cut.nfc { json!({"type": "NFC"}) } else { Json::Null },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": bytes(false),
        "decoder": bytes(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": cut.whole,
                  "vocab": vocab.ids(), "merges": merges},
    });
    Ok((tokenizer, cut.bos))
}

/// SentencePiece's BPE: pieces are joined by the score of what they become.
fn sentence_piece(file: &Gguf, vocab: &Vocabulary<'_>) -> Result<Json> {
    let scores = file.get("tokenizer.ggml.scores").and_then(Value::as_list);
    let scores = scores.filter(|scores| scores.len() == vocab.tokens.len());
    let scores = scores.ok_or_else(|| file.error("tokenizer.ggml.scores is no list of a number for each token"))?;
    let scores: Vec<f64> = scores.iter().map(|score| score.as_f64().unwrap_or(0.0)).collect();
    let prefix = file.get("tokenizer.ggml.add_space_prefix").and_then(Value::as_bool).unwrap_or(true);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut normal = Vec::new();
    normal.extend(prefix.then(|| json!({"type": "Prepend", "prepend": "▁"})));
    normal.push(space);
    let mut decode = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    decode.extend(prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
    let unknown = vocab.types.iter().position(|kind| *kind == UNKNOWN);
    let unknown = unknown.or_else(|| vocab.tokens.iter().position(|token| *token == "<unk>"));
    let bytes = vocab.types.contains(&BYTE) || vocab.tokens.contains(&"<0x00>");
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normal},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decode},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown.map(|id| vocab.tokens[id]),
                  "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": bytes,
                  "ignore_merges": false, "vocab": vocab.ids(), "merges": merges(vocab, &scores)},
    }))
}

/// Every way to make a piece of two others, the best pieces first, as Transformers' converter has them.
fn merges(vocab: &Vocabulary<'_>, scores: &[f64]) -> Vec<[String; 2]> {
    let mut ids: HashMap<&str, usize> = HashMap::with_capacity(vocab.tokens.len());
    for (id, token) in vocab.tokens.iter().enumerate() {
        ids.entry(token).or_insert(id);
    }
    // (score, ids of the two parts), for normal and user-defined pieces.
    let mut all: Vec<(f64, usize, usize)> = Vec::new();
    for (id, token) in vocab.tokens.iter().enumerate() {
        if matches!(vocab.types[id], CONTROL | BYTE | UNKNOWN) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&token[..at]), ids.get(&token[at..])) {
                all.push((scores[id], left, right));
            }
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    all.into_iter().map(|(_, left, right)| [vocab.tokens[left].to_owned(), vocab.tokens[right].to_owned()]).collect()
}

/// The post-processor that puts tokens around a text.
fn framing(before: Option<(&str, u64)>, after: Option<(&str, u64)>, otherwise: &Json) -> Json {
    if before.is_none() && after.is_none() {
        return otherwise.clone();
    }
    let token = |(token, _): (&str, u64), kind: u8| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u8| json!({"Sequence": {"id": name, "type_id": kind}});
    let around = |name: &str, kind: u8| -> Vec<Json> {
        let (before, after) = (before.map(|b| token(b, kind)), after.map(|a| token(a, kind)));
        before.into_iter().chain([text(name, kind)]).chain(after).collect()
    };
    let specials: Map<String, Json> = before
        .into_iter()
        .chain(after)
        .map(|(token, id)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let (single, second) = (around("A", 0), around("B", 1));
    let template = json!({"type": "TemplateProcessing", "single": single, "special_tokens": specials,
                          "pair": single.iter().cloned().chain(second).collect::<Vec<_>>()});
    if otherwise.is_null() { template } else { json!({"type": "Sequence", "processors": [otherwise, template]}) }
}
