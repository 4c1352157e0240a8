//! How rows are read: `[data]`'s options.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::template::RowTemplate;

/// How rows are read. The default takes them as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RowOptions {
    /// The file's names of the columns, by the names that they have here: `prompt = "question"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Roles of messages, by the names that they have in the file: `narrator = "user"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, String>,
    /// Keys of rows and messages that are left out on purpose.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// How a row becomes a prompt and a completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<RowTemplate>,
    /// Variables of the chat template, such as `enable_thinking`; a row's own `chat_template_kwargs` come before them.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub chat_template_kwargs: Map<String, Value>,
    /// Of chats only what the assistant says is learned; otherwise all of it.
    pub assistant_only_loss: bool,
    /// Of prompts and completions only the completion is learned; otherwise both.
    pub completion_only_loss: bool,
}

impl Default for RowOptions {
    fn default() -> Self {
        Self {
            columns: BTreeMap::new(),
            roles: BTreeMap::new(),
            ignore: Vec::new(),
            template: None,
            chat_template_kwargs: Map::new(),
            assistant_only_loss: true,
            completion_only_loss: true,
        }
    }
}

impl RowOptions {
    /// Names of columns that rows of some shape have; [`columns`](Self::columns) may rename these.
    pub const COLUMNS: &[&str] = &[
        "input_ids",
        "labels",
        "attention_mask",
        "completion_mask",
        "assistant_masks",
        "messages",
        "conversations",
        "tools",
        "chat_template_kwargs",
        "prompt",
        "completion",
        "instruction",
        "input",
        "output",
        "system",
        "history",
        "text",
        "segments",
        "role",
        "content",
        "from",
        "value",
    ];

    /// The column that is called `ours` here is `theirs` in the file.
    pub fn with_column(mut self, ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        self.columns.insert(ours.into(), theirs.into());
        self
    }

    /// With these names of columns alone.
    pub(crate) fn renaming(mut self, columns: &BTreeMap<String, String>) -> Self {
        self.columns.clone_from(columns);
        self
    }

    /// The role that the file calls `theirs` is `role`.
    pub fn with_role(mut self, theirs: impl Into<String>, role: impl Into<String>) -> Self {
        self.roles.insert(theirs.into(), role.into());
        self
    }

    /// Leaves out the key `key` of rows and messages.
    pub fn with_ignored(mut self, key: impl Into<String>) -> Self {
        self.ignore.push(key.into());
        self
    }

    /// Makes each row a prompt and a completion by `template`.
    pub fn with_template(mut self, template: RowTemplate) -> Self {
        self.template = Some(template);
        self
    }

    /// A renamed column that is not among `found`, by its name here and in the file. Names of a message's parts are not
    /// columns.
    pub(crate) fn never_found(&self, found: &BTreeSet<String>) -> Option<(&str, &str)> {
        let of_messages = ["role", "content", "from", "value"];
        let mut names = self.columns.iter();
        let missing = names.find(|(ours, _)| !found.contains(*ours) && !of_messages.contains(&ours.as_str()));
        missing.map(|(ours, theirs)| (ours.as_str(), theirs.as_str()))
    }

    /// Every fault of the options.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for name in self.columns.keys().filter(|name| !Self::COLUMNS.contains(&name.as_str())) {
            // With a template of one's own any name can be given.
            if self.template.as_ref().is_none_or(|template| !template.names().contains(&name.as_str())) {
                let nearest = Self::COLUMNS
                    .iter()
                    .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
                problems.push(format!(
                    "`data.columns.{name}`: no column has the name `{name}` here; the nearest is `{}`. On the left is the \
                     name here, on the right the file's: prompt = \"question\"",
                    nearest.unwrap_or(&"text")
                ));
            }
        }
        if let Some(Err(problem)) = self.template.as_ref().map(RowTemplate::check) {
            problems.push(problem);
        }
        problems
    }
}
