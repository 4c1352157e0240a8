use serde_json::json;

use super::*;

/// Reads a row for a template that has the given `words`.
fn read_with(row: Value, options: Value, words: &[&str]) -> Result<Parsed, String> {
    let options: RowOptions = serde_json::from_value(options).unwrap();
    let row = row.as_object().unwrap().clone();
    let mentions = |word: &str| words.contains(&word);
    RowReader::new(row.clone(), "line 1".into(), &options, &mentions)?.read(row)
}

fn read(row: Value) -> Result<Parsed, String> {
    read_with(row, json!({}), &["tools", "tool_calls", "reasoning_content", "tool_call_id", "name"])
}

fn error(row: Value) -> String {
    read(row).unwrap_err()
}

fn texts(prompt: &str, completion: &str) -> Row {
    Row::PromptCompletion { prompt: prompt.into(), completion: completion.into() }
}

fn chat(row: Value) -> (Value, Vec<usize>) {
    match read(row).unwrap().row {
        Row::Messages(chat) => (json!(chat.messages), chat.not_learned.into_iter().collect()),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn each_shape_is_found_from_its_keys() {
    assert_eq!(read(json!({"completion": "b", "prompt": "a"})).unwrap().row, texts("a", "b"));
    let alpaca = |input| texts(&alpaca_prompt("a", input), "c");
    assert_eq!(read(json!({"instruction": "a", "output": "c", "input": null})).unwrap().row, alpaca(None));
    let with_text = read(json!({"instruction": "a", "input": "b", "output": "c", "text": "a b c"})).unwrap();
    assert_eq!((with_text.row, with_text.unused), (alpaca(Some("b")), vec!["text".to_string()]));
    assert_eq!(read(json!({"text": "größe", "input_ids": null})).unwrap().row, Row::Text("größe".into()));
    assert_eq!(read(json!({"text": "ab", "prompt": "a"})).unwrap().row, texts("a", "b"));
    assert!(error(json!({"text": "ab", "prompt": "b"})).contains("does not begin with its `prompt`"));
    assert!(error(json!({"text": 5})).contains("`text` must be a string, not a number"));
    assert!(error(json!({"prompt": "a"})).contains("leaves nothing to learn"));
    let unknown = error(json!({"question": "a", "answer": "b"}));
    assert!(unknown.contains("[data.columns] with prompt = \"question\" and completion = \"answer\""), "{unknown}");
}

#[test]
fn columns_are_renamed_and_ignored() {
    let options = json!({"columns": {"prompt": "question", "completion": "answer"}, "ignore": ["weight"]});
    let row = json!({"question": "a", "answer": "b", "weight": 0.5, "id": 3});
    let read = read_with(row, options, &[]).unwrap();
    assert_eq!((read.row, read.unused), (texts("a", "b"), vec!["id".to_string()]));
    assert_eq!(read.renamed.into_iter().collect::<Vec<_>>(), ["completion", "prompt"]);
    let options =
        json!({"columns": {"messages": "dialog", "role": "speaker", "content": "said"}, "roles": {"bot": "assistant"}});
    let row = json!({"dialog": [{"speaker": "user", "said": "a"}, {"speaker": "bot", "said": "b"}]});
    let Row::Messages(chat) = read_with(row, options, &[]).unwrap().row else { unreachable!() };
    assert_eq!((chat.messages[1].role(), chat.messages[1].content()), ("assistant", "b"));
}

#[test]
fn a_template_of_ones_own_takes_any_columns() {
    let options = json!({"template": {"prompt": "Q: {q}\nA:", "completion": " {a}"}});
    assert_eq!(read_with(json!({"q": "x", "a": "y"}), options, &[]).unwrap().row, texts("Q: x\nA:", " y"));
}

#[test]
fn preferences_are_refused_and_the_way_out_works() {
    let row = json!({"prompt": "a", "chosen": "b", "rejected": "c"});
    assert!(error(row.clone()).contains("set completion = \"chosen\""));
    let options = json!({"columns": {"completion": "chosen"}, "ignore": ["rejected"]});
    assert_eq!(read_with(row, options, &[]).unwrap().row, texts("a", "b"));
    assert!(
        error(json!({"prompt": "a", "completion": "b", "label": false})).contains("keep the rows whose label is true")
    );
    assert!(read(json!({"prompt": "a", "completion": "b", "label": 1})).is_ok(), "a class, not a preference");
    let tagged = error(json!({"instruction": "a", "output": "b", "kto_tag": false}));
    assert!(tagged.contains("`kto_tag` is false: rows of preferences"), "{tagged}");
}

#[test]
fn keys_that_change_what_is_learned_are_refused() {
    assert!(error(json!({"text": "a", "weight": 0.5})).contains("`weight` is 0.5"));
    assert!(error(json!({"text": "a", "images": ["x.png"]})).contains("learns from text alone"));
    assert!(read(json!({"text": "a", "weight": 1.0, "images": []})).is_ok());
    let turn = |extra: Value| {
        let mut message = json!({"role": "assistant", "content": "b"});
        message.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"messages": [{"role": "user", "content": "a"}, message]})
    };
    assert!(error(turn(json!({"train_detail": [1]}))).contains("`messages[1].train_detail` would change"));
    assert!(error(turn(json!({"weight": 0.5}))).contains("is 0.5; it is 1 or true"));
    let read = read_with(turn(json!({"id": "x", "note": null})), json!({}), &[]).unwrap();
    assert_eq!(read.unused, ["messages[].id"]);
    for extra in [json!({"reasoning_content": "hm"}), json!({"tool_calls": [{"function": {"name": "f"}}]})] {
        let key = extra.as_object().unwrap().keys().next().unwrap().clone();
        let error = read_with(turn(extra.clone()), json!({}), &[]).unwrap_err();
        assert!(error.contains(&format!("`messages[1].{key}` is not read by the model's chat template")), "{error}");
        assert!(read_with(turn(extra), json!({"ignore": [key]}), &[]).is_ok(), "the way out");
    }
}

#[test]
fn weights_say_which_turns_are_context() {
    let row = |weight: Value| {
        json!({"messages": [
            {"role": "user", "content": "a", "train": false}, {"role": "assistant", "content": "b", "weight": weight},
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": true}]})
    };
    assert_eq!(chat(row(json!(0))).1, [1]);
    assert_eq!(chat(row(json!(0.0))).1, [1]);
    assert!(chat(row(json!(1))).1.is_empty() && chat(row(json!(null))).1.is_empty());
    let user = json!({"messages": [{"role": "user", "content": "a", "train": true}]});
    assert!(error(user).contains("only what the assistant says is learned"));
}

#[test]
fn openais_older_format_is_todays() {
    let row = json!({
        "functions": [{"name": "f", "parameters": {}}], "parallel_tool_calls": false,
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"}]});
    let parsed = read(row).unwrap();
    assert_eq!(parsed.unused, ["parallel_tool_calls"]);
    let Row::Messages(chat) = parsed.row else { unreachable!() };
    assert_eq!(chat.tools, [json!({"type": "function", "function": {"name": "f", "parameters": {}}})]);
    let expected = json!([{"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "1", "name": "f"}]);
    assert_eq!(json!(chat.messages), expected);
}

#[test]
fn sharegpts_roles_and_calls_are_understood() {
    let row = json!({"system": "s", "tools": "[{\"name\": \"f\"}]", "conversations": [
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "b"}]});
    let Row::Messages(chat) = read(row).unwrap().row else { unreachable!() };
    assert_eq!(chat.tools, [json!({"type": "function", "function": {"name": "f"}})]);
    let roles: Vec<_> = chat.messages.iter().map(Message::role).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
    assert_eq!(chat.messages[2].0["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    let unknown = json!({"conversations": [{"from": "narrator", "value": "a"}]});
    assert!(error(unknown.clone()).contains("say in [data.roles] what role it is, such as \"narrator\" = \"user\""));
    assert!(read_with(unknown, json!({"roles": {"narrator": "user"}}), &[]).is_ok(), "the way out");
    let openai_names =
        json!({"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    assert_eq!(chat_roles(openai_names), ["user", "assistant"]);
}

fn chat_roles(row: Value) -> Vec<String> {
    match read(row).unwrap().row {
        Row::Messages(chat) => chat.messages.iter().map(|message| message.role().to_string()).collect(),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn parts_of_text_are_lists_only_where_the_template_takes_them() {
    let row = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]});
    let Row::Messages(chat) = read(row.clone()).unwrap().row else { unreachable!() };
    assert_eq!(chat.messages[0].content(), "ab");
    let Row::Messages(chat) = read_with(row, json!({}), &["content is string"]).unwrap().row else { unreachable!() };
    assert_eq!(chat.messages[0].0["content"][1]["text"], "b");
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]});
    assert!(error(image).contains("`messages[0].content[0]` is \"image\": this program learns from text alone"));
    assert!(error(json!({"messages": [{"role": "user"}]})).contains("`messages[0]` has no `content`; give it one"));
}

#[test]
fn llama_factorys_history_is_a_chat() {
    let row = json!({"instruction": "c", "input": "d", "output": "e", "system": "s", "history": [["a", "b"]]});
    let expected = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"}, {"role": "user", "content": "c\nd"}, {"role": "assistant", "content": "e"}]);
    assert_eq!(chat(row).0, expected);
    let bare = json!({"instruction": "c", "output": "e", "system": "", "history": []});
    assert_eq!(chat(bare).0, json!([{"role": "user", "content": "c"}, {"role": "assistant", "content": "e"}]));
}

#[test]
fn prompts_and_completions_may_be_chats() {
    let row = json!({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}],
        "chat_template_kwargs": {"enable_thinking": false}});
    let Row::ChatCompletion { prompt, completion } = read(row).unwrap().row else { unreachable!() };
    assert_eq!((prompt.messages.len(), completion[0].content()), (1, "b"));
    assert_eq!(prompt.template_kwargs["enable_thinking"], false);
    let of_table = json!({"prompt": "[{\"role\": \"user\", \"content\": \"a\"}]", "completion": "[{\"role\": \"assistant\", \"content\": \"b\"}]"});
    assert!(matches!(read(of_table).unwrap().row, Row::ChatCompletion { .. }));
    let mixed = json!({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]});
    assert!(error(mixed).contains("`prompt` is a string and `completion` a list"));
}
