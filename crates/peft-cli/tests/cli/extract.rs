//! `peft convert --from-model`: what a fine-tuned checkpoint learned, as a LoRA.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Place, fixtures};

fn case(name: &str) -> PathBuf {
    fixtures().join("checkpoints").join(name)
}

fn line(tuned: &str, rank: usize, out: &str) -> String {
    let (base, tuned) = (case("tied"), case(tuned));
    format!("convert --from-model {} --model {} --rank {rank} --output {out} --json", tuned.display(), base.display())
}

#[test]
fn the_difference_of_two_models_becomes_a_lora_and_what_is_left_is_told() {
    let place = Place::new();
    let expected: Value = serde_json::from_slice(&std::fs::read(case("expected.json")).unwrap()).unwrap();
    let said = place.ok(&line("tuned", 4, "four")).json();
    let errors = said["errors"].as_object().unwrap();
    assert_eq!(errors.len(), expected["errors_at_rank_4"].as_object().unwrap().len());
    for (path, right) in expected["errors_at_rank_4"].as_object().unwrap() {
        let (found, right) = (errors[path].as_f64().unwrap(), right.as_f64().unwrap());
        assert!((found - right).abs() < 1e-5, "{path}: {found}, and torch has {right}");
    }
    assert_eq!(said["whole_modules"], json!(["model.embed_tokens", "model.norm", "lm_head"]));
    assert_eq!(said["rank"], 4);

    // At the full rank nothing is left.
    let said = place.ok(&line("tuned", 32, "all")).json();
    assert!(said["largest_error"].as_f64().unwrap() < 1e-5);
    let rows = case("rows.jsonl");
    let right = expected["losses"]["tuned"].as_f64().unwrap();
    let loss = place.loss(&case("tied"), Some(&place.path("all")), &rows);
    assert!((loss - right).abs() < 1e-5, "{loss} and {right}");
    let four = place.loss(&case("tied"), Some(&place.path("four")), &rows);
    let jobs = [("all", right), ("four", four)];
    let there = place
        .losses_there(&jobs.map(|(name, _)| json!({"model": case("tied"), "adapter": place.path(name), "rows": rows})));
    if let Some(there) = there {
        assert!(there.iter().zip(jobs).all(|(a, (_, b))| (a - b).abs() < 1e-5), "{there:?} and {jobs:?}");
    }
}

#[test]
fn what_is_no_pair_of_models_is_refused() {
    let place = Place::new();
    place.run(&line("bin", 4, "out")).fails_with(&["the two models have the same weights"]);
    place.run(&line("tuned", 0, "out")).fails_with(&["rank 0"]);
    place.random_model("other");
    let other = format!("convert --from-model other --model {} --rank 2 --output out", case("tied").display());
    place.run(&other).fails_with(&["compute otherwise", "num_attention_heads"]);
    let model = place.copy(&case("tuned"), "model");
    let text = std::fs::read_to_string(model.join("config.json")).unwrap();
    std::fs::write(model.join("config.json"), text.replace("1e-06", "1e-05")).unwrap();
    let line = format!("convert --from-model model --model {} --rank 2 --output out", case("tied").display());
    place.run(&line).fails_with(&["rms_norm_eps", "no adapter can hold these"]);
    assert!(!place.path("out").exists());
    assert_eq!(
        place.run(&format!("convert --from-model model --model {} --output out", case("tied").display())).code,
        2
    );
}
