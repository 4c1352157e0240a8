//! Messages, as TRL, OpenAI, ShareGPT and LLaMA-Factory write them, as a chat template takes them.

use std::collections::BTreeSet;

use llama_burn::{Conversation, Message};
use serde_json::{Map, Value, json};

use super::calls::{calls_of_text, tool_calls};
use super::keys::is_neutral;
use super::options::RowOptions;
use super::shape::{from_text, kind, string};
use super::weight::weight;
use crate::data::files::RawRow;

/// ShareGPT's names of roles.
const SHAREGPT_ROLES: &[(&str, &str)] = &[
    ("system", "system"),
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("model", "assistant"),
    ("function_call", "assistant"),
    ("tool_call", "assistant"),
    ("observation", "tool"),
    ("function_response", "tool"),
    ("tool_response", "tool"),
    ("tool", "tool"),
    ("function", "tool"),
];
/// Keys of messages by which other programs say how much of a turn is learned.
const CHANGING: &[&str] =
    &["loss", "mask", "loss_mask", "train_detail", "training_detail", "masked", "weights", "images"];
/// Names of a turn's reasoning; Transformers hands each of them to the template under the other names too.
const REASONING: &[&str] = &["reasoning_content", "thinking", "reasoning"];

/// Reads the messages of a row.
pub(super) struct Messages<'a> {
    pub options: &'a RowOptions,
    /// Whether the chat template has a word.
    pub mentions: &'a (dyn Fn(&str) -> bool + Sync),
    /// ShareGPT's names.
    pub sharegpt: bool,
    /// Whether all turns are learned.
    pub whole: bool,
    /// Keys that nothing reads, as `messages[].key`.
    pub unused: BTreeSet<String>,
    /// Whether arguments of a tool call are JSON text that the template puts into quotes.
    pub quoted_arguments: bool,
}

/// Messages, and which of them are not learned.
type List = (Vec<Message>, BTreeSet<usize>);

impl Messages<'_> {
    /// A conversation of the list `messages` (called `key`), with the tools and variables of its row.
    pub fn conversation(&mut self, key: &str, messages: Value, row: &mut RawRow) -> Result<Conversation, String> {
        let (messages, not_learned) = self.list(key, messages)?;
        Ok(Conversation { messages, tools: self.tools(row)?, template_kwargs: self.variables(row)?, not_learned })
    }

    /// A list of messages.
    pub fn list(&mut self, key: &str, messages: Value) -> Result<List, String> {
        let Value::Array(list) = messages else {
            return Err(format!("`{key}` must be a list, not {}", kind(&messages)));
        };
        if list.is_empty() {
            return Err(format!("`{key}` is empty; give it at least one message"));
        }
        let mut not_learned = BTreeSet::new();
        let mut messages = Vec::with_capacity(list.len());
        for (at, message) in list.into_iter().enumerate() {
            let Value::Object(message) = message else {
                return Err(format!("`{key}[{at}]` must be an object with `role` and `content`"));
            };
            let (message, learned) = self.message(&format!("{key}[{at}]"), message)?;
            if !learned {
                not_learned.insert(at);
            }
            messages.push(message);
        }
        Ok((messages, not_learned))
    }

    fn message(&mut self, place: &str, mut message: Map<String, Value>) -> Result<(Message, bool), String> {
        // ShareGPT's keys, under whatever name its messages lie.
        let sharegpt = self.sharegpt || (message.contains_key("from") && message.contains_key("value"));
        for (ours, usual) in [("role", "from"), ("content", "value")] {
            let theirs = self.options.columns.get(ours).or_else(|| self.options.columns.get(usual));
            let theirs = theirs.map_or(usual, String::as_str);
            if !message.contains_key(ours)
                && (sharegpt || theirs != usual)
                && let Some(value) = message.remove(theirs)
            {
                message.insert(ours.to_string(), value);
            }
        }
        self.options.ignore.iter().for_each(|key| drop(message.remove(key)));
        message.retain(|_, value| !value.is_null());
        let Some(said) = message.remove("role") else {
            return Err(without(place, "role", &message));
        };
        let said = string(&format!("{place}.role"), said)?;
        let role = self.role(place, &said, sharegpt)?;
        let mut out = Map::from_iter([("role".to_string(), Value::from(role.clone()))]);
        let learned = weight(place, &role, self.whole, &mut message)?;
        let content = message.remove("content");
        if sharegpt && matches!(said.as_str(), "function_call" | "tool_call") {
            let calls = calls_of_text(place, content.unwrap_or_default())?;
            out.insert("content".to_string(), "".into());
            message.insert("tool_calls".to_string(), calls);
        } else {
            let calls = message.contains_key("tool_calls") || message.contains_key("function_call");
            match content {
                Some(content) => drop(out.insert("content".to_string(), self.content(place, content)?)),
                // An assistant that only calls a tool.
                None if calls => {}
                None => return Err(without(place, "content", &message)),
            }
        }
        if let Some(calls) = tool_calls(place, &mut message)? {
            if !(self.mentions)("tool_calls") {
                return Err(not_read(&format!("{place}.tool_calls"), "tool_calls"));
            }
            let texts = |call: &Value| {
                call.pointer("/function/arguments").or(call.get("arguments")).is_some_and(Value::is_string)
            };
            self.quoted_arguments |= calls.iter().any(texts)
                && ["arguments | tojson", "arguments|tojson"].iter().any(|filter| (self.mentions)(filter))
                && !["arguments is string", "arguments is mapping"].iter().any(|test| (self.mentions)(test));
            out.insert("tool_calls".to_string(), calls.into());
        }
        let reads_reasoning = REASONING.iter().any(|name| (self.mentions)(name));
        for (key, value) in message {
            let reasoning = REASONING.contains(&key.as_str());
            if CHANGING.contains(&key.as_str()) && !is_neutral(&value) {
                return Err(format!(
                    "`{place}.{key}` would change what is learned, and this program does not do so; for a whole turn say \
                     `\"train\": false`, or set ignore = [\"{key}\"] in [data]"
                ));
            }
            if reasoning && !reads_reasoning && role == "assistant" && !is_neutral(&value) {
                return Err(not_read(&format!("{place}.{key}"), &key));
            }
            let used = (reasoning && reads_reasoning) || (self.mentions)(&key);
            if !used && !is_neutral(&value) {
                self.unused.insert(format!("messages[].{key}"));
            }
            out.insert(key, value);
        }
        Ok((Message(out), learned))
    }

    fn role(&self, place: &str, said: &str, sharegpt: bool) -> Result<String, String> {
        if let Some(role) = self.options.roles.get(said) {
            return Ok(role.clone());
        }
        let small = said.to_lowercase();
        let known = SHAREGPT_ROLES.iter().find(|(name, _)| *name == small).map(|(_, role)| role.to_string());
        if sharegpt {
            return known.ok_or_else(|| {
                let names: Vec<_> = SHAREGPT_ROLES.iter().map(|(name, _)| *name).collect();
                format!(
                    "`{place}` is from `{said}`; known are {}; say in [data.roles] what role it is, such as {said:?} = \"user\"",
                    names.join(", ")
                )
            });
        }
        // ShareGPT's names in OpenAI's form, and OpenAI's older name, which templates do not know.
        Ok(known.filter(|_| !(self.mentions)(said) || said == "function").unwrap_or_else(|| said.to_string()))
    }

    /// A text, or parts of text: as a list for templates that take one, else one after the other.
    fn content(&self, place: &str, content: Value) -> Result<Value, String> {
        let Value::Array(parts) = content else {
            return string(&format!("{place}.content"), content).map(Value::from);
        };
        let mut texts = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let text = match part {
                Value::String(text) => Some(text.as_str()),
                part if part.get("type").is_none_or(|kind| kind == "text") => part.get("text").and_then(Value::as_str),
                _ => None,
            };
            texts.push(text.ok_or_else(|| {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or("no text");
                format!(
                    "`{place}.content[{at}]` is {kind:?}: this program learns from text alone; take the rows without it"
                )
            })?);
        }
        let takes_parts = [
            "content is string",
            "content is not string",
            "content is iterable",
            "content is sequence",
            "content'] is string",
            "content'] is not string",
            "content'] is iterable",
            "content\"] is string",
            "content\"] is not string",
        ];
        if takes_parts.iter().any(|test| (self.mentions)(test)) {
            let part = |text: &&str| json!({"type": "text", "text": text});
            return Ok(texts.iter().map(part).collect());
        }
        Ok(texts.concat().into())
    }

    /// `tools` of a row, or OpenAI's older `functions`.
    fn tools(&self, row: &mut RawRow) -> Result<Vec<Value>, String> {
        let (key, tools) = match row.remove("tools") {
            Some(tools) if !is_neutral(&tools) => ("tools", from_text(tools)),
            _ => ("functions", row.remove("functions").map(from_text).unwrap_or_default()),
        };
        let list = match tools {
            Value::Null => return Ok(Vec::new()),
            Value::String(text) if text.trim().is_empty() => return Ok(Vec::new()),
            Value::Array(list) => list,
            other => return Err(format!("`{key}` must be a list of JSON schemas, not {}", kind(&other))),
        };
        let tool = |(at, tool): (usize, Value)| match from_text(tool) {
            // A function alone, as OpenAI's older format and LLaMA-Factory have it.
            Value::Object(tool)
                if (key == "functions" || self.sharegpt)
                    && tool.contains_key("name")
                    && !tool.contains_key("function") =>
            {
                Ok(json!({"type": "function", "function": tool}))
            }
            Value::Object(tool) => Ok(tool.into()),
            other => Err(format!("`{key}[{at}]` must be an object, a JSON schema, not {}", kind(&other))),
        };
        let list = list.into_iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()?;
        if !list.is_empty() && !(self.mentions)("tools") {
            return Err(not_read(key, key));
        }
        Ok(list)
    }

    fn variables(&self, row: &mut RawRow) -> Result<Map<String, Value>, String> {
        let mut variables = self.options.chat_template_kwargs.clone();
        match row.remove("chat_template_kwargs").map(from_text) {
            None | Some(Value::Null) => {}
            Some(Value::Object(own)) => variables.extend(own.into_iter().filter(|(_, value)| !value.is_null())),
            Some(other) => return Err(format!("`chat_template_kwargs` must be an object, not {}", kind(&other))),
        }
        Ok(variables)
    }
}

/// The error for a message without `key`.
fn without(place: &str, key: &str, message: &Map<String, Value>) -> String {
    let there: Vec<&String> = message.iter().filter(|(_, value)| value.is_string()).map(|(key, _)| key).collect();
    let names: Vec<_> = there.iter().map(|key| format!("`{key}`")).collect();
    let way_out = match there.as_slice() {
        [] => "give it one".to_string(),
        [one, ..] => {
            format!("it has {}; say in [data.columns] which one it is, such as {key} = {one:?}", names.join(", "))
        }
    };
    format!("`{place}` has no `{key}`; {way_out}")
}

fn not_read(what: &str, key: &str) -> String {
    format!(
        "`{what}` is not read by the model's chat template, so that the model would never see it; use a model or \
         chat_template.jinja whose template does, or set ignore = [\"{key}\"] in [data]"
    )
}
