//! Tokenizers of every class against what Transformers makes of the same files.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::text::Tokenizer;

/// A folder with the files of a case of `tests/python/tokenizer_classes.py`.
fn folder(case: &Value, files: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), files[case["file"].as_str().unwrap()].to_string()).unwrap();
    for (file, content) in case["files"].as_object().unwrap() {
        std::fs::write(folder.path().join(file), content.to_string()).unwrap();
    }
    folder
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/classes.json")).unwrap()
}

/// Ids, tokens, their flags and decoded texts.
fn result_of(tokenizer: &Tokenizer, expected: &Value) -> Value {
    let mut flags: Vec<_> = tokenizer.inner.get_added_tokens_decoder().into_iter().collect();
    flags.sort_by_key(|(id, _)| *id);
    let flags: Vec<Value> = flags
        .into_iter()
        .map(|(id, token)| json!([id, token.content, token.lstrip, token.rstrip, token.normalized, token.special]))
        .collect();
    let texts = expected["texts"].as_array().unwrap().iter().map(|row| {
        let text = row[0].as_str().unwrap();
        let ids = tokenizer.encode(text, true).unwrap();
        let decoded = [false, true].map(|skip| tokenizer.decode(&ids, skip).unwrap());
        json!([text, ids, tokenizer.encode(text, false).unwrap(), decoded[0], decoded[1]])
    });
    let texts: Vec<Value> = texts.collect();
    let special: Map<String, Value> =
        tokenizer.special_tokens().iter().map(|(key, token)| (key.to_owned(), token.into())).collect();
    json!({ "size": tokenizer.vocab_size(), "special": special, "flags": flags, "texts": texts })
}

#[test]
fn every_class_gives_the_tokens_of_transformers() {
    let fixture = fixture();
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let Some(at) = case["result"].as_u64().filter(|_| !case["name"].as_str().unwrap().starts_with("refused"))
        else {
            continue;
        };
        count += 1;
        let expected = &fixture["results"][at as usize];
        let got = match Tokenizer::from_dir(folder(case, &fixture["files"]).path()) {
            Ok(tokenizer) => result_of(&tokenizer, expected),
            Err(error) => error.to_string().into(),
        };
        for key in ["size", "special", "flags"] {
            if got[key] != expected[key] {
                wrong.push(format!("{} {key}: {} for {}", case["name"], got.get(key).unwrap_or(&got), expected[key]));
            }
        }
        let pairs = expected["texts"].as_array().unwrap().iter().enumerate();
        for (at, row) in pairs.filter(|(at, row)| got["texts"][*at] != **row) {
            wrong.push(format!("{}: {} for {row}", case["name"], got["texts"][at]));
        }
    }
    assert!(count > 100 && wrong.is_empty(), "{count} cases, wrong:\n{}", wrong.join("\n"));
}

#[test]
fn other_classes_are_refused_by_name() {
    let fixture = fixture();
    for case in fixture["cases"].as_array().unwrap() {
        if case["name"].as_str().unwrap().starts_with("refused") {
            let error = Tokenizer::from_dir(folder(case, &fixture["files"]).path()).unwrap_err().to_string();
            let class = case["files"]["tokenizer_config.json"]["tokenizer_class"].as_str().unwrap();
            assert!(error.contains(class.trim_end_matches("Fast")), "{error}");
            assert!(error.contains("tokenizer_config.json: the tokenizer's class is"), "{error}");
            assert!(error.contains("PreTrainedTokenizerFast"), "{error}");
        }
    }
}

#[test]
fn texts_to_fill_in_are_refused() {
    let fixture = fixture();
    let cases = fixture["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["name"] == "pieces llama CodeLlamaTokenizerFast").unwrap();
    let tokenizer = Tokenizer::from_dir(folder(case, &fixture["files"]).path()).unwrap();
    let error = tokenizer.encode("a <FILL_ME> b", false).unwrap_err().to_string();
    assert!(error.contains("<FILL_ME>"), "{error}");
}

#[test]
fn a_class_needs_a_vocabulary() {
    let config = br#"{"tokenizer_class": "Qwen2Tokenizer"}"#;
    for json in [json!({}), json!({ "model": {} }), json!({ "model": { "vocab": 7 } })] {
        let error = Tokenizer::from_bytes(json.to_string().as_bytes(), Some(config)).unwrap_err().to_string();
        assert!(error.contains("Qwen2Tokenizer takes its vocabulary from `model"), "{error}");
    }
}
