//! The shapes of rows, found from their keys.

use std::fmt;

use llama_burn::{Conversation, Message};
use serde_json::Value;

use super::options::RowOptions;
use crate::data::files::RawRow;

/// A row, as training takes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Row {
    /// Tokens; without `labels` all of them are learned.
    InputIds {
        /// Token ids.
        input_ids: Vec<u32>,
        /// Aligned with `input_ids`; −100 is ignored.
        labels: Option<Vec<i32>>,
    },
    /// A chat; what the assistant says is learned.
    Messages(Conversation),
    /// A chat and how it goes on; all that follows the prompt is learned.
    ChatCompletion {
        /// The messages that the model is given, with the tools and the template's variables.
        prompt: Conversation,
        /// The messages that the model learns.
        completion: Vec<Message>,
    },
    /// A text and how it goes on; the completion is learned.
    PromptCompletion {
        /// The text that the model is given.
        prompt: String,
        /// The text that the model learns.
        completion: String,
    },
    /// A text, all of it learned.
    Text(String),
    /// Pieces of a text, tokenised one by one, and whether each is learned. Nothing is added to them.
    Segments(Vec<(String, bool)>),
}

/// The shapes that rows of a file can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowShape {
    /// Texts from `[data.template]`.
    Template,
    /// `input_ids`, perhaps with `attention_mask` and `labels` or `completion_mask` and `assistant_masks`.
    InputIds,
    /// `messages`, each with `role` and `content`, perhaps with `tools`.
    Messages,
    /// `conversations`, each with `from` and `value`, perhaps with `system` and `tools`.
    Conversations,
    /// `prompt` and `completion`, both texts or both lists of messages.
    PromptCompletion,
    /// `instruction` and `output`, perhaps with `input`: put into Alpaca's words; where a row of the file has `system`, `history`
    /// or `tools` (LLaMA-Factory's), all of them are chats.
    Instruction,
    /// `text`; its beginning is not learned where there is a `prompt`.
    Text,
    /// `segments`, each with `text` and `label` (axolotl's `input_output`): those whose label is true are learned.
    Segments,
}

impl RowShape {
    const KNOWN: [Self; 7] = [
        Self::InputIds,
        // Before `messages`, which some data sets have beside it, as in TRL.
        Self::PromptCompletion,
        Self::Messages,
        Self::Conversations,
        Self::Instruction,
        Self::Text,
        Self::Segments,
    ];

    /// The keys that a row of this shape must have.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Template => &["[data.template]"],
            Self::InputIds => &["input_ids"],
            Self::Messages => &["messages"],
            Self::Conversations => &["conversations"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::Instruction => &["instruction", "output"],
            Self::Text => &["text"],
            Self::Segments => &["segments"],
        }
    }

    /// The shape of a row whose columns are renamed already.
    pub(super) fn of(row: &RawRow, options: &RowOptions) -> Result<Self, String> {
        // A column of a table is there in each row, and null where it says nothing.
        let has = |key: &str| row.get(key).is_some_and(|value| !value.is_null());
        if options.template.is_some() {
            return Ok(Self::Template);
        }
        let tokens = has("input_ids");
        if has("chosen") && has("rejected") && !tokens {
            return Err("has `chosen` and `rejected`: rows of preferences (for DPO or a reward model), from which this \
                        program does not learn; to learn the chosen answers, set completion = \"chosen\" (or messages = \
                        \"chosen\", where the prompt is part of it) in [data.columns], and ignore = [\"rejected\"] in [data]"
                .to_string());
        }
        if let Some(shape) = Self::KNOWN.into_iter().find(|shape| shape.keys().iter().all(|key| has(key))) {
            return Ok(shape);
        }
        Err(unknown(row, &has))
    }
}

/// The keys, as `prompt + completion`.
impl fmt::Display for RowShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.keys().join(" + "))
    }
}

/// Names that other data sets give to a shape's columns.
#[allow(clippy::type_complexity)] // a table
const ALIASES: &[(&[&str], &[(&str, &str)])] = &[
    (&["instruction", "context", "response"], &[("input", "context"), ("output", "response")]),
    (&["instruction", "response"], &[("output", "response")]),
    (&["prompt", "response"], &[("completion", "response")]),
    (
        &["system_prompt", "question", "response"],
        &[("instruction", "question"), ("output", "response"), ("system", "system_prompt")],
    ),
    (&["question", "answer"], &[("prompt", "question"), ("completion", "answer")]),
    (&["question", "response"], &[("prompt", "question"), ("completion", "response")]),
    (&["query", "answers"], &[("prompt", "query"), ("completion", "answers")]),
    (&["query", "response"], &[("prompt", "query"), ("completion", "response")]),
    (&["inputs", "targets"], &[("prompt", "inputs"), ("completion", "targets")]),
    (&["input", "output"], &[("prompt", "input"), ("completion", "output")]),
    (&["conversation"], &[("conversations", "conversation")]),
    (&["dialog"], &[("messages", "dialog")]),
    (&["dialogue"], &[("messages", "dialogue")]),
    (&["content"], &[("text", "content")]),
];

fn unknown(row: &RawRow, has: &impl Fn(&str) -> bool) -> String {
    let found: Vec<_> = row.keys().map(|key| format!("`{key}`")).collect();
    let found = if found.is_empty() { "no key".to_string() } else { found.join(", ") };
    if has("prompt") && row.len() == 1 {
        return "has `prompt` alone, which leaves nothing to learn; give each row a `completion`".to_string();
    }
    let lacking = |shape: &RowShape| {
        let keys = shape.keys();
        let null = keys.iter().find(|key| row.contains_key(**key) && !has(key));
        null.filter(|_| keys.iter().all(|key| row.contains_key(*key)))
    };
    if let Some(key) = RowShape::KNOWN.iter().find_map(lacking) {
        return format!(
            "has nothing in `{key}`: it is null, as is an empty cell of a table, or one with NA, None, null or the like (as in \
             pandas); take the row out, or write a text that is meant so as JSON Lines"
        );
    }
    if let ([key], Some(separator)) = (
        row.keys().collect::<Vec<_>>().as_slice(),
        [';', '\t', '|'].iter().find(|&&c| row.len() == 1 && row.keys().any(|key| key.contains(c))),
    ) {
        let name = if *separator == '\t' { "let the file's name end in .tsv" } else { "write it with commas" };
        return format!("has one column, `{key}`: its cells are separated by {separator:?}; {name}");
    }
    let chat = row
        .iter()
        .find(|(_, value)| is_chat(value))
        .map(|(key, _)| format!("[data.columns] with messages = \"{key}\" would make it one"));
    let alias = ALIASES.iter().find(|(keys, _)| keys.iter().all(|key| has(key)));
    let way_out = alias.map_or_else(
        || chat.unwrap_or_else(|| "name its columns in [data.columns], such as text = \"body\"".to_string()),
        |(_, columns)| {
            let columns: Vec<_> = columns.iter().map(|(ours, theirs)| format!("{ours} = \"{theirs}\"")).collect();
            format!("[data.columns] with {} would make it one", columns.join(" and "))
        },
    );
    let known = RowShape::KNOWN.map(|shape| shape.to_string()).join(" · ");
    format!("has {found}, which fits no shape; known are {known}; {way_out}")
}

/// Whether it is a list of messages.
fn is_chat(value: &Value) -> bool {
    let said = |message: &Value| ["role", "from"].iter().any(|key| message.get(key).is_some_and(Value::is_string));
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(said))
}

/// The kind of a JSON value, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A string at `key`.
pub(super) fn string(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("`{key}` must be a string, not {}", kind(&other))),
    }
}

/// A list or object that a table has as JSON text.
pub(super) fn from_text(value: Value) -> Value {
    match &value {
        Value::String(text) if text.trim_start().starts_with(['[', '{']) => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    }
}
