//! From the columns of a row to what training takes.

use std::collections::{BTreeMap, BTreeSet};

use llama_burn::Message;
use serde_json::Value;

use super::chat::Messages;
use super::options::RowOptions;
use super::shape::{Row, RowShape, from_text, kind, string};
use super::template::alpaca_prompt;
use super::{ids, keys};
use crate::data::files::RawRow;

/// A row, and what of it is not used.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub row: Row,
    /// Keys that nothing reads; those of messages as `messages[].key`.
    pub unused: Vec<String>,
    /// Whether arguments of a tool call are JSON text that the template puts into quotes.
    pub quoted_arguments: bool,
    /// Renamed columns that the row has.
    pub renamed: BTreeSet<String>,
    /// Of an instruction, whether it is a chat.
    pub instruction: Option<bool>,
}

/// Reads the rows of a file, which are all of one shape.
pub(crate) struct RowReader<'a> {
    options: &'a RowOptions,
    mentions: &'a (dyn Fn(&str) -> bool + Sync),
    shape: RowShape,
    first: String,
    /// Whether instructions are chats: one row of the file that has a chat's columns makes all of them so.
    chats: bool,
}

/// Columns by which LLaMA-Factory makes instructions chats.
const OF_CHATS: &[&str] = &["system", "history", "tools"];

impl<'a> RowReader<'a> {
    /// For files whose first row, which is at `place`, is `row`. `mentions` says whether the chat template has a word.
    pub fn new(
        mut row: RawRow,
        place: String,
        options: &'a RowOptions,
        mentions: &'a (dyn Fn(&str) -> bool + Sync),
    ) -> Result<Self, String> {
        rename(&mut row, options);
        Ok(Self { options, mentions, shape: RowShape::of(&row, options)?, first: place, chats: is_chat(&row) })
    }

    /// Whether other rows of the file still have a say in how this shape is read.
    pub fn asks_all(&self) -> bool {
        self.shape == RowShape::Instruction && !self.chats
    }

    /// Whether `row` makes instructions chats.
    pub fn makes_chats(&self, mut row: RawRow) -> bool {
        rename(&mut row, self.options);
        is_chat(&row)
    }

    /// Reads all instructions as chats.
    pub fn of_chats(self) -> Self {
        Self { chats: true, ..self }
    }

    /// The shape of all rows.
    pub fn shape(&self) -> RowShape {
        self.shape
    }

    /// A row, or what is wrong with it.
    pub fn read(&self, mut row: RawRow) -> Result<Parsed, String> {
        let renamed = rename(&mut row, self.options);
        let (shape, expected) = (RowShape::of(&row, self.options)?, self.shape);
        if shape != expected {
            return Err(format!("has {shape}, but {} has {expected}; use one shape a file", self.first));
        }
        let mut messages = Messages {
            options: self.options,
            mentions: self.mentions,
            sharegpt: shape == RowShape::Conversations,
            whole: shape != RowShape::PromptCompletion && !self.options.assistant_only_loss,
            unused: BTreeSet::new(),
            quoted_arguments: false,
        };
        let row_of = self.row(&mut row, &mut messages)?;
        let Messages { unused, quoted_arguments, .. } = messages;
        let unused = unused.into_iter().chain(keys::left(row)?).collect();
        let instruction = (shape == RowShape::Instruction).then_some(self.chats);
        Ok(Parsed { row: row_of, unused, quoted_arguments, renamed, instruction })
    }

    fn row(&self, row: &mut RawRow, messages: &mut Messages<'_>) -> Result<Row, String> {
        let mut take = |key: &str| row.remove(key).unwrap_or_default();
        match self.shape {
            RowShape::Template => {
                let Some(template) = &self.options.template else { return Err("there is no template".to_string()) };
                let (prompt, completion) = template.fill(row)?;
                Ok(Row::PromptCompletion { prompt, completion })
            }
            RowShape::InputIds => ids::read(row, self.options),
            RowShape::Messages | RowShape::Conversations => {
                let key = if self.shape == RowShape::Messages { "messages" } else { "conversations" };
                let (list, system) = with_system(from_text(take(key)), row)?;
                let chat = messages.conversation(key, list, row)?;
                // Only now are roles known by their usual names.
                match system.filter(|_| chat.messages.get(1).is_some_and(|turn| turn.role() == "system")) {
                    None => Ok(Row::Messages(chat)),
                    Some(name) => Err(format!(
                        "`{key}` begins with a system's turn, and there is `{name}` too; take one of them out, or set \
                         ignore = [{name:?}] in [data]"
                    )),
                }
            }
            RowShape::PromptCompletion => match (from_text_list(take("prompt")), from_text_list(take("completion"))) {
                (Value::String(prompt), Value::String(completion)) => Ok(Row::PromptCompletion { prompt, completion }),
                (prompt @ Value::Array(_), completion @ Value::Array(_)) => {
                    let prompt = messages.conversation("prompt", prompt, row)?;
                    let (completion, not_learned) = messages.list("completion", completion)?;
                    if not_learned.is_empty() {
                        return Ok(Row::ChatCompletion { prompt, completion });
                    }
                    Err("`completion` has a turn that is not to be learned (weight or train), and all of a completion is \
                         learned; move it into `prompt`, or put all turns into `messages`"
                        .to_string())
                }
                (prompt, completion) => Err(format!(
                    "`prompt` is {} and `completion` {}; both must be strings, or both lists of messages",
                    kind(&prompt),
                    kind(&completion)
                )),
            },
            RowShape::Instruction => {
                let instruction = string("instruction", take("instruction"))?;
                let input = match take("input") {
                    Value::Null => None,
                    input => Some(string("input", input)?),
                };
                let completion = string("output", take("output"))?;
                if self.chats {
                    return self.llama_factory(row, messages, instruction, input, completion);
                }
                Ok(Row::PromptCompletion { prompt: alpaca_prompt(&instruction, input.as_deref()), completion })
            }
            RowShape::Segments => Ok(Row::Segments(segments(from_text(take("segments")))?)),
            RowShape::Text => {
                let text = string("text", take("text"))?;
                let Value::String(prompt) = take("prompt") else { return Ok(Row::Text(text)) };
                match text.strip_prefix(&prompt) {
                    Some(completion) => Ok(Row::PromptCompletion { completion: completion.to_string(), prompt }),
                    None => Err("`text` does not begin with its `prompt`, so that what is learned cannot be told; give \
                                 `prompt` and `completion`, or set ignore = [\"prompt\"] in [data] to learn all of `text`"
                        .to_string()),
                }
            }
        }
    }

    /// LLaMA-Factory's Alpaca rows are chats: earlier turns in `history`, the input under the instruction.
    fn llama_factory(
        &self,
        row: &mut RawRow,
        messages: &mut Messages<'_>,
        instruction: String,
        input: Option<String>,
        output: String,
    ) -> Result<Row, String> {
        let mut turns = Vec::new();
        match row.remove("system").unwrap_or_default() {
            Value::Null => {}
            Value::String(system) if system.is_empty() => {}
            system => turns.push(Message::new("system", string("system", system)?)),
        }
        let history = match from_text(row.remove("history").unwrap_or_default()) {
            Value::Null => Vec::new(),
            Value::String(text) if text.is_empty() => Vec::new(),
            Value::Array(history) => history,
            other => return Err(format!("`history` must be a list of pairs of texts, not {}", kind(&other))),
        };
        for pair in history {
            match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(user), Value::String(assistant)]) => {
                    turns.push(Message::new("user", user.as_str()));
                    turns.push(Message::new("assistant", assistant.as_str()));
                }
                _ => {
                    return Err(
                        "`history` must be a list of pairs of texts: what was asked and what was answered".to_string()
                    );
                }
            }
        }
        let question = match input.filter(|input| !input.is_empty()) {
            Some(input) => format!("{instruction}\n{input}"),
            None => instruction,
        };
        turns.push(Message::new("user", question));
        turns.push(Message::new("assistant", output));
        let list = turns.into_iter().map(|message| Value::Object(message.0)).collect();
        Ok(Row::Messages(messages.conversation("history", list, row)?))
    }
}

/// The messages with the system's words at their beginning, which LLaMA-Factory and axolotl have in a column of their own, and
/// that column's name where it says something.
fn with_system(mut list: Value, row: &mut RawRow) -> Result<(Value, Option<&'static str>), String> {
    let mut found = None;
    for name in ["system", "system_prompt"] {
        let system = match row.remove(name) {
            None | Some(Value::Null) => continue,
            Some(system) => string(name, system)?,
        };
        let Value::Array(messages) = &mut list else { break };
        if system.is_empty() {
            continue;
        }
        if found.is_some() {
            return Err("has both `system` and `system_prompt`; set ignore = [\"system_prompt\"] in [data]".to_string());
        }
        found = Some(name);
        messages.insert(0, serde_json::json!({"role": "system", "content": system}));
    }
    Ok((list, found))
}

/// Pieces of a text with what is learned of them.
fn segments(list: Value) -> Result<Vec<(String, bool)>, String> {
    let Value::Array(list) = list else {
        return Err(format!("`segments` must be a list, not {}", kind(&list)));
    };
    let segment = |(at, segment): (usize, &Value)| match (segment.get("text"), segment.get("label")) {
        (Some(Value::String(text)), Some(Value::Bool(label))) => Ok((text.clone(), *label)),
        _ => Err(format!("`segments[{at}]` must be an object with `text`, a string, and `label`, true or false")),
    };
    list.iter().enumerate().map(segment).collect()
}

/// Lists of messages that a table has as JSON text; any other text is one.
fn from_text_list(value: Value) -> Value {
    match &value {
        Value::String(text) if text.starts_with("[{") => {
            let list = serde_json::from_str::<Vec<BTreeMap<String, Value>>>(text);
            if list.is_ok_and(|list| !list.is_empty() && list.iter().all(|message| message.contains_key("role"))) {
                return from_text(value);
            }
            value
        }
        _ => value,
    }
}

/// Whether it has a column of chats, be it null: a table has it for all rows.
fn is_chat(row: &RawRow) -> bool {
    OF_CHATS.iter().any(|key| row.contains_key(*key))
}

/// Gives columns the names that they have here, and takes out what is to be ignored. Returns which columns were there.
fn rename(row: &mut RawRow, options: &RowOptions) -> BTreeSet<String> {
    options.ignore.iter().for_each(|key| drop(row.remove(key)));
    let found: Vec<(&String, Value)> =
        options.columns.iter().filter_map(|(ours, theirs)| row.remove(theirs).map(|value| (ours, value))).collect();
    let names = found.iter().map(|(name, _)| (*name).clone()).collect();
    found.into_iter().for_each(|(name, value)| drop(row.insert(name.clone(), value)));
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
