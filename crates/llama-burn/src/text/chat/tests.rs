//! Templates against what transformers makes of them.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value as Json, json};

use super::*;
use crate::text::message::Message;

const CONFIG: &[u8] = include_bytes!("../../../tests/fixtures/tokenizer/tokenizer_config.json");

fn template(name: &str) -> ChatTemplate {
    let source = match name {
        "smollm2" => include_str!("../../../tests/fixtures/templates/smollm2.jinja"),
        "llama-2" => include_str!("../../../tests/fixtures/templates/llama-2.jinja"),
        "llama-3" => include_str!("../../../tests/fixtures/templates/llama-3.jinja"),
        "llama-3.2" => include_str!("../../../tests/fixtures/templates/llama-3.2.jinja"),
        _ => include_str!("../../../tests/fixtures/templates/python.jinja"),
    };
    let special = SpecialTokens::of(&serde_json::from_slice(CONFIG).unwrap(), &Map::new(), Path::new("")).unwrap();
    ChatTemplate::new(source, &special).unwrap()
}

#[test]
fn templates_render_as_in_transformers() {
    let cases: Json = serde_json::from_str(include_str!("../../../tests/fixtures/chat.json")).unwrap();
    for case in cases["chats"].as_array().unwrap() {
        let mut template = template(case["template"].as_str().unwrap());
        template.set_variable("date_string", "26 Jul 2024");
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let rendered = template.render(&messages.into(), case["add_generation_prompt"].as_bool().unwrap());
        match case["error"].as_str() {
            Some(expected) => assert!(rendered.unwrap_err().to_string().contains(expected)),
            None => assert_eq!(rendered.unwrap(), case["text"], "{case}"),
        }
    }
}

#[test]
fn families_of_templates_render_and_mask_as_in_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families");
    let json = include_bytes!("../../../tests/fixtures/tokenizer/tokenizer.json");
    let tokenizer = crate::text::Tokenizer::from_bytes(json, Some(CONFIG)).unwrap();
    let cases: Vec<Json> = serde_json::from_str(include_str!("../../../tests/fixtures/families.json")).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case["template"].as_str().unwrap();
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let mut template = ChatTemplate::new(&source, tokenizer.special_tokens()).unwrap();
        template.environment.add_function("strftime_now", |_: String| "26 July 2024");
        let conversation = Conversation {
            messages: serde_json::from_value(case["messages"].clone()).unwrap(),
            tools: case.get("tools").and_then(Json::as_array).cloned().unwrap_or_default(),
            template_kwargs: case.get("chat_template_kwargs").and_then(Json::as_object).cloned().unwrap_or_default(),
            ..Conversation::default()
        };
        let rendered = template.render(&conversation, case["add_generation_prompt"].as_bool().unwrap());
        let same = match (case["text"].as_str(), &rendered) {
            (Some(text), Ok(rendered)) => rendered == text,
            (None, Err(error)) => {
                // The template's own words; Jinja's errors are worded otherwise here.
                let said = case["error"].as_str().unwrap();
                !source.contains(said) || error.to_string().contains(said)
            }
            _ => false,
        };
        if !same {
            wrong.push(format!("{case}\n  gives {rendered:?}"));
        }
        if let Some(mask) = case.get("mask") {
            let (ids, targets) = template.encode(&conversation, &tokenizer, &Default::default()).unwrap();
            if (json!(ids), json!(targets)) != (case["ids"].clone(), mask.clone()) {
                wrong.push(format!("{case}\n  masks {targets:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn variables_stand_in_for_keyword_arguments() {
    let messages = Conversation::new([Message::new("user", "hi")]);
    let mut template = template("llama-3.2");
    assert!(!template.render(&messages, false).unwrap().contains("Today Date: 26 Jul 2024"));
    template.set_variable("date_string", "26 Jul 2024");
    assert!(template.render(&messages, false).unwrap().contains("Today Date: 26 Jul 2024"));
    template.set_variable("custom_tools", json!([{"name": "f"}]));
    assert!(template.render(&messages, false).unwrap().contains("{\n    \"name\": \"f\"\n}\n\nhi<|eot_id|>"));
}

#[test]
fn a_directory_keeps_its_template_in_one_of_three_ways() {
    let dir = tempfile::tempdir().unwrap();
    let config = |json: Json| std::fs::write(dir.path().join("tokenizer_config.json"), json.to_string()).unwrap();
    let render = || ChatTemplate::from_dir(dir.path())?.render(&Conversation::new([Message::new("user", "x")]), false);
    config(json!({"bos_token": "<s>", "chat_template": "{{ bos_token }}string"}));
    assert_eq!(render().unwrap(), "<s>string");
    let named = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]);
    config(json!({"chat_template": named}));
    assert_eq!(render().unwrap(), "named");
    std::fs::write(dir.path().join("chat_template.jinja"), "file {{ messages[0].content }}").unwrap();
    assert_eq!(render().unwrap(), "file x");
}

#[test]
fn a_missing_or_malformed_template_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = || ChatTemplate::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error().contains("the model has no chat template"), "{}", error());
    assert!(ChatTemplate::find(dir.path()).unwrap().is_none());
    let config = |json: Json| std::fs::write(dir.path().join("tokenizer_config.json"), json.to_string()).unwrap();
    config(json!({"eos_token": "</s>", "chat_template": null}));
    assert!(ChatTemplate::find(dir.path()).unwrap().is_none());
    config(json!({"chat_template": [{"name": "rag", "template": "x"}]}));
    let missing =
        ChatTemplate::from_dir(dir.path()).unwrap().render(&Conversation::new([Message::new("user", "x")]), false);
    let missing = missing.unwrap_err().to_string();
    assert!(missing.contains("no chat_template is named \"default\"; there are: rag"), "{missing}");
    config(json!({"chat_template": 7}));
    assert!(error().contains("chat_template must be a string or a list of named templates, but is 7"), "{}", error());
    config(json!({"chat_template": "line one\n{% for %}"}));
    assert!(error().starts_with("chat template: syntax error: "), "{}", error());
    assert!(error().contains("default:2"), "{}", error());
    assert!(ChatTemplate::find(dir.path()).is_err());
}

#[test]
fn what_is_not_supported_is_named_and_the_template_at_fault() {
    let error = |source: &str| {
        let template = ChatTemplate::new(source, &SpecialTokens::default()).unwrap();
        let error = template.render(&Conversation::new([Message::new("user", "x")]), false).unwrap_err();
        let crate::LlamaError::Template(error) = error else { panic!("{error}") };
        error
    };
    for (source, name) in [
        ("{{ messages | xmlattr }}", "xmlattr"),
        ("{{ messages | pprint }}", "pprint"),
        ("{% set a = '%s' %}{{ a % 'x' }}", "% operator"),
        ("{% macro f() %}{{ 'a'.encode() }}{% endmacro %}{{ f() }}", ".encode()"),
        ("{{ 'a'.encode() }}", ".encode()"),
        ("{{ lipsum() }}", "lipsum"),
        ("{{ 'a' is odd_test }}", "odd_test"),
    ] {
        let error = error(source);
        assert!(error.is_of_template(), "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("the template is at fault"), "{error}");
    }
    assert!(!error("{{ raise_exception('no') }}").is_of_template());
    let error = error("{{ messages.append(1) }}");
    assert!(error.to_string().contains("changes a value"), "{error}");
}
