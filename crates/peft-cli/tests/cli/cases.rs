//! Adapters and a tokenizer of the kinds that users report trouble with, on the world model, with the values that Transformers
//! 5.23 and PEFT 0.21.2 give.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Place, fixtures};

fn case(name: &str) -> PathBuf {
    fixtures().join("cases").join(name)
}

pub fn world() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/world").canonicalize().unwrap()
}

#[test]
fn adapters_compute_what_peft_computes() {
    let place = Place::new();
    for (name, right) in [
        ("head_target", 7.990992),
        ("save_emb", 7.747804),
        ("mts_tie", 8.746489),
        ("eva", 7.839623),
        ("plain", 7.834271),
    ] {
        let loss = place.loss(&world(), Some(&case(name)), &case("rows.jsonl"));
        assert!((loss - right).abs() < 5e-5, "{name}: {loss}, and PEFT has {right}");
    }
    let said = place.eval(&world(), Some(&case("pissa_niter_4")), &case("rows.jsonl"));
    said.fails_with(&["pissa_niter_4", "cannot be made again", "path_initial_model_for_weight_conversion"]);
}

/// Of byte-level, SentencePiece and byte-fallback tokenizers: tokens and text are those that Transformers goes on with.
#[test]
fn a_prompt_may_end_in_a_character_of_several_bytes() {
    let place = Place::new();
    let data = fixtures().join("data");
    let cases: Value = serde_json::from_slice(&std::fs::read(data.join("cases.json")).unwrap()).unwrap();
    let prompts = cases["prompts"].as_array().unwrap();
    assert!(prompts.len() > 10);
    for case in prompts {
        let overlay = case["overlay"].as_str();
        let model = place.copy(&world(), &format!("model-{}", overlay.unwrap_or("world")));
        if let Some(overlay) = overlay {
            place.copy(&data.join("overlays").join(overlay), model.file_name().unwrap().to_str().unwrap());
        }
        let prompt = case["prompt"].as_str().unwrap();
        let generate = |more: &[&str]| {
            let model = model.to_str().unwrap();
            let said = place.peft(
                &[&["generate", "--model", model, "--prompt", prompt, "--max-new-tokens", "6"][..], more].concat(),
            );
            assert_eq!(said.code, 0, "{case}: {}", said.err);
            said
        };
        let json = generate(&["--json"]).json();
        let mut tokens = case["tokens"].as_array().unwrap().clone();
        // The token that ends a text is no part of it here.
        let ended = tokens.pop_if(|id| *id == 2).is_some();
        assert_eq!(json["tokens"], Value::from(tokens), "{case}");
        let (text, expected) = (json["text"].as_str().unwrap(), case["text"].as_str().unwrap());
        assert!(if ended { expected.starts_with(text) } else { expected == text }, "{case}: {text}");
        let streamed = generate(&[]).out;
        assert!(streamed.contains(text) && !streamed.contains('\u{fffd}'), "{streamed}");
    }
}

#[test]
fn a_pad_token_beyond_the_embedding_is_an_error_only_where_a_row_has_it() {
    let place = Place::new();
    let model = place.copy(&world(), "model");
    place.copy(&case("pad_token_added"), "model");
    let said = place.eval(&model, None, &case("rows_text.jsonl"));
    let loss = said.json()["loss"].as_f64().unwrap();
    assert!((loss - 7.8434).abs() < 5e-5, "{loss}");
    assert!(said.err.contains("\"[PAD]\"") && said.err.contains("beyond the model's"), "{}", said.err);
    place.write(
        "rows.jsonl",
        "{\"prompt\": \"a\", \"completion\": \" b\"}\n{\"prompt\": \"a [PAD]\", \"completion\": \" c\"}\n",
    );
    let said = place.eval(&model, None, &place.path("rows.jsonl"));
    said.fails_with(&["line 2", "(\"[PAD]\")", "take this token out of the row"]);
    assert!(!said.err.contains("line 1"), "{}", said.err);
    // The way out that the message names helps.
    place.write(
        "rows.jsonl",
        "{\"prompt\": \"a\", \"completion\": \" b\"}\n{\"prompt\": \"a\", \"completion\": \" c\"}\n",
    );
    place.loss(&model, None, &place.path("rows.jsonl"));
    let said = place.run("generate --model model --prompt [PAD]a --max-new-tokens 2");
    said.fails_with(&["outside the model's vocabulary of 2048", "\"[PAD]\" (token 2048)", "take it out of the prompt"]);
    place.ok("generate --model model --prompt a --max-new-tokens 2");
}
