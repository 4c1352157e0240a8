//! Small templates against what Transformers' Jinja makes of them (`tests/python/jinja_cases.py`).

#![allow(clippy::unwrap_used)]

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::Value as Json;

use super::environment::{adapted, jinja};

#[test]
fn templates_print_what_jinja_prints() {
    let fixture: Json = serde_json::from_str(include_str!("../../../tests/fixtures/jinja.json")).unwrap();
    let mut wrong = Vec::new();
    let cases = fixture["cases"].as_array().unwrap();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let variables = Value::from(Serde(fixture["variables"].clone()));
        let got = jinja().unwrap().render_str(&adapted(source).0, variables);
        match (case["text"].as_str(), got) {
            (Some(text), Ok(got)) if got == text => {}
            (None, Err(_)) => {}
            (Some(text), Ok(got)) => wrong.push(format!("{source}\n    {got:?}\n    {text:?}")),
            (Some(text), Err(error)) => wrong.push(format!("{source}\n    {error:#}\n    {text:?}")),
            (None, Ok(got)) => wrong.push(format!("{source}\n    {got:?}\n    {}", case["error"])),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
