//! Conversations, as chat templates take them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation: a JSON object with `role`, `content` and whatever else the template reads
/// (`tool_calls`, `name`, `reasoning_content`, ...).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(pub Map<String, Value>);

impl Message {
    /// The value of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self::default().with("role", role.into()).with("content", content.into())
    }

    /// The same message with one more key.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// Who speaks, such as `user` or `assistant`; empty where the message does not say.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// The content, where it is a string.
    pub fn content(&self) -> &str {
        self.0.get("content").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A conversation as a chat template renders it: messages, and the values beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// JSON schemas of the functions that the assistant may call. None and an empty list are the same.
    pub tools: Vec<Value>,
    /// `chat_template_kwargs`: further variables of the template, such as `enable_thinking`.
    pub template_kwargs: Map<String, Value>,
    /// Indices of assistant messages that are context only: nothing in them is learned.
    pub not_learned: BTreeSet<usize>,
}

impl Conversation {
    /// A conversation of `messages` alone.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self { messages: messages.into_iter().collect(), ..Self::default() }
    }

    /// The values beside the messages.
    pub(crate) fn clone_without_messages(&self) -> Self {
        Self { tools: self.tools.clone(), template_kwargs: self.template_kwargs.clone(), ..Self::default() }
    }
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self::new(messages)
    }
}
