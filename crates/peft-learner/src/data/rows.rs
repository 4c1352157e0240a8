//! Reading JSON Lines: which of the known shapes a file has, and its rows.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::IGNORE_INDEX;
use crate::error::{LearnerError, Problems, Result};

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, or what else the model's template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A row, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Tokens; without `labels` all of them are learned.
    InputIds {
        /// Token ids.
        input_ids: Vec<u32>,
        /// Aligned with `input_ids`; −100 is ignored.
        labels: Option<Vec<i32>>,
    },
    /// A chat; what the assistant says is learned.
    Messages(Vec<ChatMessage>),
    /// A text and how it goes on; the completion is learned.
    PromptCompletion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// Alpaca's: an instruction, perhaps with an input; the output is learned.
    Instruction {
        /// What to do.
        instruction: String,
        /// What to do it with; empty or absent: nothing.
        input: Option<String>,
        /// What is learned.
        output: String,
    },
    /// A text, all of it learned.
    Text(String),
}

/// The shapes a file can have, in the order in which their keys are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowShape {
    /// [`Row::InputIds`]
    InputIds,
    /// [`Row::Messages`]
    Messages,
    /// [`Row::PromptCompletion`]
    PromptCompletion,
    /// [`Row::Instruction`]
    Instruction,
    /// [`Row::Text`]
    Text,
}

impl RowShape {
    const ALL: [Self; 5] = [Self::InputIds, Self::Messages, Self::PromptCompletion, Self::Instruction, Self::Text];

    /// The keys a row of this shape must have, and those it may.
    fn keys(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::InputIds => (&["input_ids"], &["labels"]),
            Self::Messages => (&["messages"], &[]),
            Self::PromptCompletion => (&["prompt", "completion"], &[]),
            Self::Instruction => (&["instruction", "output"], &["input"]),
            Self::Text => (&["text"], &[]),
        }
    }

    fn of(object: &Map<String, Value>) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.keys().0.iter().all(|&key| object.contains_key(key)))
    }
}

/// The keys, as `prompt + completion`.
impl fmt::Display for RowShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.keys().0.join(" + "))
    }
}

/// A data file's rows, all of one shape.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The file.
    pub file: PathBuf,
    /// The shape of all of them.
    pub shape: RowShape,
    /// Line numbers from 1, and the rows. There is at least one.
    pub rows: Vec<(usize, Row)>,
    /// Keys that some row has beside those of its shape; they are not used.
    pub ignored_keys: BTreeSet<String>,
}

impl Rows {
    /// Reads a JSON Lines file. The first row decides the shape; empty lines are passed over.
    ///
    /// # Errors
    /// [`LearnerError::Data`] with the line number of every malformed line, every row that fits no shape or another one
    /// than the first; [`LearnerError::NoRows`] for an empty file.
    pub fn read(file: impl AsRef<Path>) -> Result<Self> {
        let file = file.as_ref();
        let mut reader = BufReader::new(File::open(file).map_err(LearnerError::io("open", file))?);
        let (mut rows, mut ignored_keys, mut problems) = (Vec::new(), BTreeSet::new(), Problems::default());
        let mut first: Option<(usize, RowShape)> = None;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(LearnerError::io("read", file))? == 0 {
                break;
            }
            let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
            if text.is_empty() {
                continue;
            }
            match parse(text, &mut ignored_keys) {
                Ok((shape, row)) => match *first.get_or_insert((number, shape)) {
                    (_, expected) if expected == shape => rows.push((number, row)),
                    (at, expected) => problems
                        .push(format!("line {number} has {shape}, but line {at} has {expected}; use one shape a file")),
                },
                Err(problem) => problems.push(format!("line {number}: {problem}")),
            }
        }
        if !problems.is_empty() {
            return Err(LearnerError::Data { file: file.to_path_buf(), problems });
        }
        match first {
            Some((_, shape)) => Ok(Self { file: file.to_path_buf(), shape, rows, ignored_keys }),
            None => Err(LearnerError::NoRows { file: file.to_path_buf() }),
        }
    }
}

fn parse(text: &[u8], ignored_keys: &mut BTreeSet<String>) -> Result<(RowShape, Row), String> {
    let mut object = match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err("not a JSON object".to_string()),
        Err(error) => return Err(format!("not JSON: {}", place(&error))),
    };
    let Some(shape) = RowShape::of(&object) else {
        let found: Vec<_> = object.keys().map(|key| format!("`{key}`")).collect();
        let found = if found.is_empty() { "no key".to_string() } else { found.join(", ") };
        let known = RowShape::ALL.map(|shape| shape.to_string()).join(" · ");
        return Err(format!("has {found}, which fits no shape; known are {known}"));
    };
    // Absent and null are the same for a key that may be absent.
    let mut take = |key: &str| object.remove(key).unwrap_or(Value::Null);
    let row = match shape {
        RowShape::InputIds => input_ids(take("input_ids"), take("labels"))?,
        RowShape::Messages => messages(take("messages"))?,
        RowShape::PromptCompletion => Row::PromptCompletion {
            prompt: string("prompt", take("prompt"))?,
            completion: string("completion", take("completion"))?,
        },
        RowShape::Instruction => Row::Instruction {
            instruction: string("instruction", take("instruction"))?,
            input: match take("input") {
                Value::Null => None,
                input => Some(string("input", input)?),
            },
            output: string("output", take("output"))?,
        },
        RowShape::Text => Row::Text(string("text", take("text"))?),
    };
    ignored_keys.extend(object.into_iter().map(|(key, _)| key));
    Ok((shape, row))
}

/// serde_json says `at line 1 column 7` of what is one line of many.
fn place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    format!("{message} at column {}", error.column())
}

fn string(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("`{key}` must be a string, not {}", kind(&other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn input_ids(ids: Value, labels: Value) -> Result<Row, String> {
    let input_ids: Vec<u32> = numbers("input_ids", "token ids", ids, |number| u32::try_from(number).ok())?;
    let labels: Option<Vec<i32>> = match labels {
        Value::Null => None,
        labels => Some(numbers("labels", "token ids or -100", labels, |number| {
            i32::try_from(number).ok().filter(|&label| label >= 0 || label == IGNORE_INDEX)
        })?),
    };
    match &labels {
        Some(labels) if labels.len() != input_ids.len() => {
            Err(format!("{} `labels` for {} `input_ids`; there must be one for each", labels.len(), input_ids.len()))
        }
        _ => Ok(Row::InputIds { input_ids, labels }),
    }
}

fn numbers<T>(key: &str, what: &str, list: Value, convert: impl Fn(i64) -> Option<T>) -> Result<Vec<T>, String> {
    let Value::Array(list) = list else {
        return Err(format!("`{key}` must be a list of {what}, not {}", kind(&list)));
    };
    let convert = |value: &Value| value.as_i64().and_then(&convert);
    list.iter().map(|value| convert(value).ok_or_else(|| format!("`{key}` holds {value}; it takes {what}"))).collect()
}

fn messages(list: Value) -> Result<Row, String> {
    let Value::Array(list) = list else {
        return Err(format!("`messages` must be a list, not {}", kind(&list)));
    };
    let message = |(at, message): (usize, Value)| {
        let Value::Object(mut message) = message else {
            return Err(format!("`messages[{at}]` must be an object with `role` and `content`"));
        };
        let mut part = |key: &str| string(&format!("messages[{at}].{key}"), message.remove(key).unwrap_or(Value::Null));
        Ok(ChatMessage { role: part("role")?, content: part("content")? })
    };
    Ok(Row::Messages(list.into_iter().enumerate().map(message).collect::<Result<_, _>>()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Rows> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.jsonl");
        std::fs::write(&file, text).unwrap();
        Rows::read(&file)
    }

    fn row(text: &str) -> Row {
        read(text).unwrap().rows.remove(0).1
    }

    fn error(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn each_shape_is_found_from_its_keys() {
        assert_eq!(row(r#"{"input_ids": [1, 2]}"#), Row::InputIds { input_ids: vec![1, 2], labels: None });
        let labels = Some(vec![-100, 2]);
        assert_eq!(
            row(r#"{"labels": [-100, 2], "input_ids": [1, 2]}"#),
            Row::InputIds { input_ids: vec![1, 2], labels }
        );
        let message = ChatMessage { role: "user".into(), content: "hi".into() };
        assert_eq!(row(r#"{"messages": [{"role": "user", "content": "hi"}]}"#), Row::Messages(vec![message]));
        assert_eq!(
            row(r#"{"completion": "b", "prompt": "a"}"#),
            Row::PromptCompletion { prompt: "a".into(), completion: "b".into() }
        );
        let alpaca = |input| Row::Instruction { instruction: "a".into(), input, output: "c".into() };
        assert_eq!(row(r#"{"instruction": "a", "output": "c", "input": null}"#), alpaca(None));
        let with_text = row(r#"{"instruction": "a", "input": "b", "output": "c", "text": "a b c"}"#);
        assert_eq!(with_text, alpaca(Some("b".into())), "Alpaca's own files carry a `text` too");
        assert_eq!(row(r#"{"text": "größe"}"#), Row::Text("größe".into()));
    }

    #[test]
    fn lines_are_counted_through_gaps_and_windows_endings() {
        let rows = read("\u{feff}{\"text\": \"a\", \"id\": 1}\r\n\r\n{\"text\": \"b\"}").unwrap();
        assert_eq!(rows.rows, [(1, Row::Text("a".into())), (3, Row::Text("b".into()))]);
        assert_eq!(rows.ignored_keys.into_iter().collect::<Vec<_>>(), ["id"]);
    }

    #[test]
    fn every_bad_line_is_named() {
        let text = error(
            "{\"text\": \"a\"}\n{\"text\": \n[1]\n{\"txt\": \"a\"}\n{\"text\": 5}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n",
        );
        for part in [
            "rows.jsonl` has lines that cannot be used",
            "line 2: not JSON: EOF while parsing a value at column",
            "line 3: not a JSON object",
            "line 4: has `txt`, which fits no shape; known are input_ids · messages · prompt + completion",
            "line 5: `text` must be a string, not a number",
            "line 6 has prompt + completion, but line 1 has text",
        ] {
            assert!(text.contains(part), "missing: {part}\nin: {text}");
        }
        let many = error(&"{\n".repeat(30));
        assert!(many.contains("line 20:") && !many.contains("line 21:") && many.contains("30 in all"), "{many}");
    }

    #[test]
    fn ids_and_labels_are_checked() {
        assert!(error(r#"{"input_ids": [1, -2]}"#).contains("`input_ids` holds -2; it takes token ids"));
        assert!(error(r#"{"input_ids": [1, 2], "labels": [-1, 2]}"#).contains("`labels` holds -1"));
        assert!(error(r#"{"input_ids": [1, 2], "labels": [2]}"#).contains("1 `labels` for 2 `input_ids`"));
        assert!(error(r#"{"input_ids": "1 2"}"#).contains("must be a list of token ids, not a string"));
        assert!(
            error(r#"{"messages": [{"role": "user"}]}"#).contains("`messages[0].content` must be a string, not null")
        );
    }

    #[test]
    fn empty_missing_and_undecodable_files_are_errors() {
        assert!(error("\n\n").contains("has no rows"));
        let text = Rows::read("nowhere/rows.jsonl").unwrap_err().to_string();
        assert!(text.starts_with("cannot open `nowhere/rows.jsonl`"), "{text}");
        let latin1 = read(b"{\"text\": \"gr\xf6\xdfe\"}").unwrap_err().to_string();
        assert!(latin1.contains("line 1: not JSON"), "{latin1}");
    }
}
