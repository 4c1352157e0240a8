//! Instruction rows as prompts: Alpaca's words, or a template of one's own.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::files::RawRow;

/// A prompt and a completion with the names of columns in braces: `"Question: {question}\nAnswer: "`. `{{` and `}}` are
/// braces themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowTemplate {
    /// The text that the model is given.
    pub prompt: String,
    /// The text in the place of `prompt` where a row has no `input` (absent, null or empty), as in axolotl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_no_input: Option<String>,
    /// The text that the model learns.
    #[serde(default = "output")]
    pub completion: String,
}

fn output() -> String {
    "{output}".to_string()
}

/// A piece of a template.
enum Piece<'a> {
    Text(&'a str),
    Column(&'a str),
}

fn pieces(mut text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    while let Some(at) = text.find(['{', '}']) {
        pieces.push(Piece::Text(&text[..at]));
        let rest = &text[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            pieces.push(Piece::Text(&rest[..1]));
            text = &rest[2..];
            continue;
        }
        let end = rest.find('}').filter(|_| rest.starts_with('{'));
        let Some(end) = end else {
            return Err(format!("a brace alone in {text:?}; write {{{{ and }}}} for braces themselves"));
        };
        pieces.push(Piece::Column(rest[1..end].trim()));
        text = &rest[end + 1..];
    }
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

impl RowTemplate {
    fn texts(&self) -> impl Iterator<Item = &String> {
        [&self.prompt, &self.completion].into_iter().chain(&self.prompt_no_input)
    }

    /// The fault of the template, if it has one.
    pub(super) fn check(&self) -> Result<(), String> {
        for text in self.texts() {
            pieces(text).map_err(|problem| format!("`data.template`: {problem}"))?;
        }
        if self.prompt_no_input.is_some() && !self.names().contains(&"input") {
            return Err(
                "`data.template.prompt_no_input` is for rows without `input`, and `prompt` has no {input}".into()
            );
        }
        Ok(())
    }

    /// The columns it names.
    pub(super) fn names(&self) -> Vec<&str> {
        let pieces = self.texts().filter_map(|text| pieces(text).ok()).flatten();
        pieces.filter_map(|piece| if let Piece::Column(name) = piece { Some(name) } else { None }).collect()
    }

    /// The prompt and the completion of a row. Columns that are used leave it.
    pub(super) fn fill(&self, row: &mut RawRow) -> Result<(String, String), String> {
        let empty = |value: Option<&Value>| value.is_none_or(|value| value.is_null() || value == "");
        let prompt = match &self.prompt_no_input {
            Some(prompt) if empty(row.get("input")) => prompt,
            _ => &self.prompt,
        };
        let filled = (fill(prompt, row)?, fill(&self.completion, row)?);
        self.names().iter().for_each(|name| drop(row.remove(*name)));
        Ok(filled)
    }
}

fn fill(text: &str, row: &RawRow) -> Result<String, String> {
    let mut filled = String::new();
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => filled += text,
            Piece::Column(name) => match row.get(name) {
                Some(Value::String(text)) => filled += text,
                Some(number @ (Value::Number(_) | Value::Bool(_))) => filled += &number.to_string(),
                Some(Value::Null) | None => return Err(format!("has no `{name}`, which `data.template` takes")),
                Some(_) => return Err(format!("`{name}` must be a string or a number, which `data.template` takes")),
            },
        }
    }
    Ok(filled)
}

/// The prompt of an instruction row, in the words of Stanford Alpaca.
pub fn alpaca_prompt(instruction: &str, input: Option<&str>) -> String {
    match input.filter(|input| !input.is_empty()) {
        Some(input) => format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. \
             Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        ),
        None => format!(
            "Below is an instruction that describes a task. \
             Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:\n"
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(prompt: &str, no_input: Option<&str>) -> RowTemplate {
        RowTemplate { prompt: prompt.into(), prompt_no_input: no_input.map(Into::into), completion: output() }
    }

    fn row(value: Value) -> RawRow {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn columns_are_filled_in() {
        let t = template("{{Q}} {question} ({ n }):\n", None);
        let mut with = row(json!({"question": "why?", "n": 3, "output": " so", "id": 7}));
        assert_eq!(t.fill(&mut with).unwrap(), ("{Q} why? (3):\n".to_string(), " so".to_string()));
        assert_eq!(with.keys().collect::<Vec<_>>(), ["id"]);
        assert!(t.fill(&mut row(json!({"question": "why?"}))).unwrap_err().contains("has no `n`"));
    }

    #[test]
    fn a_prompt_without_input_is_another_one() {
        let t = template("{instruction}|{input}|", Some("{instruction}|"));
        assert_eq!(t.fill(&mut row(json!({"instruction": "a", "input": "b", "output": "c"}))).unwrap().0, "a|b|");
        for input in [json!(""), json!(null)] {
            assert_eq!(t.fill(&mut row(json!({"instruction": "a", "input": input, "output": "c"}))).unwrap().0, "a|");
        }
    }

    #[test]
    fn malformed_templates_are_refused() {
        assert!(template("{a", None).check().unwrap_err().contains("a brace alone"));
        assert!(template("a}", None).check().is_err());
        assert!(template("{a}", Some("x")).check().unwrap_err().contains("prompt_no_input"));
        assert!(template("{{a}}", None).check().is_ok());
    }
}
