//! Tables, and rows of which only some have a column: what they mean, and what is refused by name.
//!
//! The tables, and what `datasets` reads from them, are made by `tests/python/csv_cases.py`.

use std::path::{Path, PathBuf};

use burn::data::dataset::Dataset;
use peft_learner::base::Base;
use peft_learner::data::{DataFile, Part, Prepared, RowOptions, alpaca_prompt};
use serde_json::{Map, Value, json};

use super::base;

fn tables() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/csv")
}

fn expected() -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(tables().join("expected.json")).unwrap()).unwrap()
}

fn prepare(base: &Base, file: &Path, options: Value) -> peft_learner::Result<Prepared> {
    let rows: RowOptions = serde_json::from_value(options).unwrap();
    base.preparation(usize::MAX).rows(rows).sources(&[file.into()], Part::Train)
}

/// The rows of a table as prompts and completions would give them.
fn same_as(base: &Base, file: &Path, rows: &[Value]) {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("rows.jsonl");
    std::fs::write(&lines, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let all = |file: &Path| prepare(base, file, json!({})).unwrap().examples.to_vec().unwrap();
    assert_eq!(all(file), all(&lines), "{}", file.display());
}

#[test]
fn cells_that_say_nothing_are_those_of_datasets() {
    for (name, rows) in expected().into_iter().filter(|(name, _)| name.starts_with("cells")) {
        let file = DataFile::open(tables().join(&name), Part::Train).unwrap();
        let rows = rows.as_array().unwrap().clone();
        let found: Vec<Value> = (0..file.len()).map(|at| Value::Object(file.get(at).unwrap())).collect();
        assert_eq!(found, rows, "{name}");
    }
}

#[test]
fn an_empty_input_is_none_and_a_column_of_systems_makes_chats() {
    let alpaca = |instruction: &str, input: Option<&str>, output: &str| json!({"prompt": alpaca_prompt(instruction, input), "completion": output});
    let rows = [alpaca("Do it", None, "done"), alpaca("Do", Some("it"), "done"), alpaca("Do more", None, "done too")];
    same_as(&base(None), &tables().join("alpaca.csv"), &rows);
    let chat = |system: Option<&str>, asked: &str, said: &str| {
        let system = system.map(|system| json!({"role": "system", "content": system}));
        let turns = [json!({"role": "user", "content": asked}), json!({"role": "assistant", "content": said})];
        json!({"messages": system.into_iter().chain(turns).collect::<Vec<_>>()})
    };
    let rows =
        [chat(None, "Do it", "done"), chat(Some("Be brief."), "Do\nit", "done"), chat(None, "Do more", "done too")];
    same_as(&base(Some("marked")), &tables().join("alpaca_chat.csv"), &rows);
}

#[test]
fn rows_without_a_text_are_refused_by_name_and_preferences_of_tables_too() {
    let base = base(None);
    let error = prepare(&base, &tables().join("missing.csv"), json!({})).unwrap_err().to_string();
    for part in [
        "row 2: has nothing in `completion`",
        "row 3: has nothing in `prompt`",
        "row 4: has nothing in `completion`",
        "row 5: has nothing in `completion`",
        "a table, or one with NA, None, null or the like",
        "take the row out, or write a text that is meant so as JSON Lines",
    ] {
        assert!(error.contains(part), "missing: {part}\nin: {error}");
    }
    assert!(!error.contains("row 6:"), "`none` is a word: {error}");
    let error = prepare(&base, &tables().join("label.csv"), json!({})).unwrap_err().to_string();
    assert!(error.contains("row 2: `label` is false: rows of preferences"), "{error}");
    assert!(prepare(&base, &tables().join("label.csv"), json!({"ignore": ["label"]})).is_ok(), "the way out");
    assert!(prepare(&base, &tables().join("weight.csv"), json!({})).is_ok(), "weights of 1");
}

#[test]
fn two_systems_of_a_chat_are_refused_whatever_they_are_called() {
    let (base, folder) = (base(Some("marked")), tempfile::tempdir().unwrap());
    let path = folder.path().join("rows.jsonl");
    let said = |row: Value, options: Value| {
        std::fs::write(&path, format!("{row}\n")).unwrap();
        prepare(&base, &path, options).map(drop).map_err(|error| error.to_string())
    };
    let talk = |role: &str| json!([{"from": role, "value": "Be long."}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "one"}]);
    for (role, options) in [
        ("system", json!({})),
        ("System", json!({})),
        ("SYSTEM", json!({})),
        ("boss", json!({"roles": {"boss": "system"}})),
    ] {
        let row = json!({"conversations": talk(role), "system": "Be brief."});
        let error = said(row.clone(), options.clone()).unwrap_err();
        assert!(error.contains("`conversations` begins with a system's turn, and there is `system` too"), "{error}");
        let mut ignoring = options;
        ignoring["ignore"] = json!(["system"]);
        assert_eq!(said(row, ignoring), Ok(()), "the way out");
    }
    let both = json!({"conversations": talk("human"), "system": "a", "system_prompt": "b"});
    assert!(said(both, json!({})).unwrap_err().contains("has both `system` and `system_prompt`"));
}

#[test]
fn turns_that_are_not_to_be_learned_are_refused_where_all_of_a_chat_is() {
    let (base, folder) = (base(Some("marked")), tempfile::tempdir().unwrap());
    let path = folder.path().join("rows.jsonl");
    let said = |user: Value, assistant: Value, options: Value| {
        let turn = |role: &str, train: Value| json!({"role": role, "content": "a", "train": train});
        let row = json!({"messages": [turn("user", user), turn("assistant", assistant)]});
        std::fs::write(&path, format!("{row}\n")).unwrap();
        prepare(&base, &path, options).map(|prepared| prepared.report).map_err(|error| error.to_string())
    };
    let whole = json!({"assistant_only_loss": false});
    for (user, assistant) in [(json!(false), json!(true)), (json!(null), json!(false))] {
        let error = said(user, assistant, whole.clone()).unwrap_err();
        assert!(error.contains("is false, and assistant_only_loss = false in [data] learns all of a chat"), "{error}");
    }
    let ignoring = json!({"assistant_only_loss": false, "ignore": ["train"]});
    let report = said(json!(false), json!(true), ignoring).unwrap();
    assert_eq!(report.target_tokens, report.tokens - 1, "nothing predicts the first");
    // What the error of a user's turn to be learned says to do.
    let error = said(json!(true), json!(true), json!({})).unwrap_err();
    assert!(error.contains("assistant_only_loss = false in [data] to learn all turns"), "{error}");
    assert!(said(json!(true), json!(true), whole).is_ok());
}

#[test]
fn files_of_which_some_are_chats_are_told_and_the_way_out_makes_all_of_them_so() {
    let (base, folder) = (base(Some("marked")), tempfile::tempdir().unwrap());
    let warned = |first: &str| {
        std::fs::write(folder.path().join("a.jsonl"), first).unwrap();
        let chat = "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\", \"output\": \"b\", \"system\": \"s\"}\n";
        std::fs::write(folder.path().join("b.jsonl"), chat).unwrap();
        prepare(&base, folder.path(), json!({})).unwrap().report.warnings().join("\n")
    };
    let said = warned("{\"instruction\": \"a\", \"output\": \"b\"}\n");
    assert!(said.contains("1 instruction rows are put into Alpaca's words and 2 are chats"), "{said}");
    let said = warned("{\"instruction\": \"a\", \"output\": \"b\", \"system\": null}\n");
    assert!(!said.contains("Alpaca's words"), "{said}");
}
