//! The tokenizer of a model directory as a GGUF file's metadata.

use std::path::Path;

use serde_json::Value as Json;

use super::reader::Gguf;
use super::tokenizer::pre_of;
use super::value::Value;
use crate::error::{LlamaError, Result};
use crate::text::{ChatTemplate, Tokenizer};

/// Entries of the metadata.
pub(super) type Entries = Vec<(String, Value)>;

/// The entries of `file` about its tokenizer.
pub(super) fn copied(file: &Gguf) -> Entries {
    let of_text = file.metadata().filter(|(key, _)| key.starts_with("tokenizer."));
    of_text.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

/// The tokenizer of the directory `dir`, for a model of `vocab` embeddings; nothing where there is none.
///
/// # Errors
/// A tokenizer that llama.cpp does not have, by what is strange in it.
pub(super) fn of_directory(dir: &Path, vocab: usize) -> Result<Entries> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Ok(vec![("tokenizer.ggml.model".into(), Value::Text("none".into()))]);
    }
    let tokenizer = Tokenizer::from_dir(dir)?;
    let text = std::fs::read_to_string(&path).map_err(LlamaError::io(&path))?;
    let json: Json = serde_json::from_str(&text).map_err(LlamaError::json(&path))?;
    let refused = |message: &str| LlamaError::Gguf { path: path.clone(), message: message.into() };
    let merges = json["model"]["merges"].as_array().filter(|_| json["model"]["type"] == "BPE");
    let merges = merges.ok_or_else(|| refused("only BPE tokenizers can be written"))?;
    let merges: Option<Vec<String>> = merges
        .iter()
        .map(|merge| match merge {
            Json::String(merge) => Some(merge.clone()),
            pair => Some(format!("{} {}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
        })
        .collect();
    let merges = merges.ok_or_else(|| refused("its merges are not pairs of texts"))?;
    let Some(pre) = pre_of(&json) else {
        return Err(refused(
            "llama.cpp cuts texts in none of the ways that it does: byte-level BPE as in Llama 3, Qwen 2, Mistral's Tekken, \
             SmolLM or GPT-2 can be written, and a model that came from a GGUF file keeps its own",
        ));
    };
    let added: Vec<(u64, bool)> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| Some((token["id"].as_u64()?, token["special"].as_bool()?)))
        .collect();
    let (mut tokens, mut types) = (Vec::with_capacity(vocab), Vec::with_capacity(vocab));
    for id in 0..vocab.max(tokenizer.vocab_size()) as u32 {
        let kind = match (tokenizer.id_to_token(id), added.iter().find(|(added, _)| *added == u64::from(id))) {
            // Embeddings without a token.
            (None, _) => 5,
            (_, Some((_, true))) => 3,
            (_, Some((_, false))) => 4,
            _ => 1,
        };
        tokens.push(Value::Text(tokenizer.id_to_token(id).unwrap_or_else(|| format!("[PAD{id}]"))));
        types.push(Value::Signed(kind));
    }
    let framed = tokenizer.encode("a", true)?;
    let bos = tokenizer.bos_token_id();
    let ggml = |key: &str, value: Value| (format!("tokenizer.ggml.{key}"), value);
    let mut all = vec![
        ggml("model", Value::Text("gpt2".into())),
        ggml("pre", Value::Text(pre.into())),
        ggml("tokens", Value::List(tokens)),
        ggml("token_type", Value::List(types)),
        ggml("merges", Value::List(merges.into_iter().map(Value::Text).collect())),
        ggml("add_bos_token", Value::Bool(bos.is_some() && framed.first() == bos.as_ref())),
    ];
    let ids = [
        ("bos_token_id", bos),
        ("eos_token_id", tokenizer.eos_token_id()),
        ("padding_token_id", tokenizer.pad_token_id()),
    ];
    all.extend(ids.into_iter().filter_map(|(key, id)| Some(ggml(key, Value::Unsigned(u64::from(id?))))));
    if let Some(template) = ChatTemplate::source_in(dir)? {
        all.push(("tokenizer.chat_template".into(), Value::Text(template)));
    }
    Ok(all)
}
