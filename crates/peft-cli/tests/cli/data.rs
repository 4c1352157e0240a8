//! Data as people have it, through the binary. `tests/data.rs` holds tokens and labels against TRL.

use std::path::{Path, PathBuf};

use crate::support::{Place, fixtures};

fn data(name: &str) -> PathBuf {
    fixtures().join("data").join(name)
}

/// The world with a template that reads tools and `enable_thinking`.
fn world(place: &Place, overlay: &str) -> PathBuf {
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/world").canonicalize().unwrap();
    place.copy(&world, "model");
    place.copy(&data("overlays").join(overlay), "model")
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_parquet_file_of_sharegpt_chats_is_trained_on_and_measured_as_it_was_read() {
    let place = Place::new();
    let model = world(&place, "marked");
    let file = data("sharegpt.datasets.parquet");
    let set = format!("--set model.path={} --set data.train={}", show(&model), show(&file));
    let said = place.ok(&format!("train run.toml --json --valid 0.5 {set} --set training.max_steps=2"));
    assert_eq!(said.json()["rows"], 2);
    assert!(said.err.contains("2 rows") && said.err.contains("not used: id (in 1 rows)"), "{}", said.err);
    assert!(said.json()["valid_loss"].is_number(), "{}", said.out);
    let eval = |rest: &str| {
        let line = format!("eval --json --model {} --data {} {rest}", show(&model), show(&file));
        place.ok(&line).json()["loss"].as_f64().unwrap()
    };
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(data("cases.json")).unwrap()).unwrap();
    let case = cases["cases"].as_array().unwrap().iter().find(|case| case["name"] == "sharegpt").unwrap();
    assert!((eval("") - case["loss"].as_f64().unwrap()).abs() < 1e-5);
    assert!(eval("--adapter run/adapter --config run/config.toml").is_finite());
}

#[test]
fn options_of_rows_go_from_a_run_to_an_evaluation() {
    let place = Place::new();
    place.write("qa.csv", "question,answer\nAlice was, beginning\nThe Queen, of Hearts\n");
    place.run("train run.toml --set data.train=qa.csv").fails_with(&[
        "row 1: has `question`, `answer`, which fits no shape",
        "[data.columns] with prompt = \"question\" and completion = \"answer\" would make it one",
    ]);
    // The way out.
    let columns = "--set data.columns.prompt=question --set data.columns.completion=answer --set training.max_steps=1";
    place.ok(&format!("train run.toml --set data.train=qa.csv {columns}"));
    let model = show(&fixtures().join("glassllm-en"));
    place.run(&format!("eval --model {model} --data qa.csv")).fails_with(&["[data.columns]"]);
    place.ok(&format!("eval --model {model} --data qa.csv --config run/config.toml"));
    place.run("train run.toml --set data.columns.promt=question").fails_with(&["the nearest is `prompt`"]);
}

#[test]
fn variables_of_the_template_are_given_on_the_command_line() {
    let place = Place::new();
    let model = show(&world(&place, "tools"));
    place.write(
        "chat.jsonl",
        r#"{"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "<think></think>one"}]}"#,
    );
    let targets = |rest: &[&str]| {
        let args = [&["eval", "--json", "--model", &model, "--data", "chat.jsonl"], rest].concat();
        let said = place.peft(&args);
        assert_eq!(said.code, 0, "{}", said.err);
        said.json()["tokens"].as_u64().unwrap()
    };
    let off = ["--chat-template-kwargs", r#"{"enable_thinking": false}"#];
    assert!(targets(&off) < targets(&[]), "an empty thought belongs to the prompt then");
    let said = place.peft(&["eval", "--model", &model, "--data", "chat.jsonl", "--chat-template-kwargs", "[1]"]);
    assert!(said.code == 2 && said.err.contains("it must be a JSON object"), "{}", said.err);
}

#[test]
fn what_is_no_data_is_refused_with_the_way_out() {
    let place = Place::new();
    place.write("rows.xlsx", "PK\u{3}\u{4}");
    place.run("train run.toml --set data.train=rows.xlsx").fails_with(&["rows.xlsx", "save the table as CSV"]);
    place.run("train run.toml --set data.train=none/*.jsonl").fails_with(&["no file has a name like this"]);
    place.write("few/train.jsonl", "{\"text\": \"a\"}\n");
    place
        .run("train run.toml --set data.valid=few")
        .fails_with(&["none of its files is named for this part", "name the file itself"]);
    place.ok("train run.toml --set data.valid=few/train.jsonl --set training.max_steps=1");
}

#[test]
fn resuming_is_for_the_same_rows_however_they_are_stored() {
    let place = Place::new();
    place.ok("train run.toml --set training.max_steps=4");
    let rows: Vec<serde_json::Value> = String::from_utf8(place.read("train.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    place.write("other.json", &serde_json::to_string_pretty(&rows).unwrap());
    let said = place.ok("train run.toml --resume --set training.max_steps=6 --set data.train=other.json");
    assert!(said.err.contains("with the same contents"), "{}", said.err);
    place.write("other.json", &serde_json::to_string_pretty(&rows[1..]).unwrap());
    place
        .run("train run.toml --resume --set training.max_steps=8 --set data.train=other.json")
        .fails_with(&["data changed since"]);
}
