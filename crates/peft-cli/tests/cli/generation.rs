//! The settings of a model's `generation_config.json`, and the options that come before them.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::{Place, fixtures};

#[derive(Deserialize)]
struct Expected {
    prompt: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    config: Value,
    asked: Map<String, Value>,
    tokens: Vec<u32>,
}

fn with_config(config: &Value) -> Place {
    let place = Place::new();
    place.copy_model("model");
    place.write("model/generation_config.json", &config.to_string());
    place
}

/// The tokens are Transformers' (`tests/python/generation_defaults.py`).
#[test]
fn a_models_own_settings_are_honoured_and_options_come_before_them() {
    let expected = std::fs::read(fixtures().join("generation_defaults.json")).unwrap();
    let Expected { prompt, cases } = serde_json::from_slice(&expected).unwrap();
    for Case { config, asked, tokens } in cases {
        let place = with_config(&config);
        let options = asked.iter().map(|(key, value)| format!("--{} {value}", key.replace('_', "-")));
        let options = options.collect::<Vec<_>>().join(" ");
        let mut args = vec!["generate", "--model", "model", "--json", "--prompt", &prompt];
        args.extend(options.split_whitespace());
        let said = place.peft(&args);
        assert_eq!(said.json()["tokens"], json!(tokens), "{config} {asked:?}: {}", said.err);
    }
}

#[test]
fn a_model_that_draws_does_so_where_it_is_asked_to_and_by_the_seed() {
    let place = with_config(&json!({"do_sample": true, "temperature": 2.0, "top_p": 0.95, "stop_strings": ["zzz"]}));
    let line = |more: &str| place.ok(&format!("generate --model model --prompt Alice --max-new-tokens 16 {more}"));
    let first = line("--temperature 2 --seed 1");
    assert!(first.err.contains("generation_config.json: top_k = 50, top_p = 0.95"), "{}", first.err);
    assert_eq!(first.out, line("--temperature 2 --seed 1").out);
    assert_ne!(first.out, line("--temperature 2 --seed 2").out);
    let greedy = line("--seed 1");
    assert!(greedy.err.contains("--temperature 2 does as it says"), "{}", greedy.err);
    assert_eq!(greedy.out, line("--temperature 0 --seed 2").out);
}

#[test]
fn what_is_not_honoured_is_named() {
    let place = with_config(&json!({"no_repeat_ngram_size": 3, "suppress_tokens": [7], "num_beams": 1}));
    let said = place.ok("generate --model model --prompt Alice --max-new-tokens 2");
    let expected = "warning: generation_config.json has no_repeat_ngram_size = 3, suppress_tokens = [7], which";
    assert!(said.err.contains(expected), "{}", said.err);
    let place = with_config(&json!({"temperature": "hot"}));
    place
        .run("generate --model model --prompt Alice")
        .fails_with(&["generation_config.json", "temperature: must be a number"]);
}
