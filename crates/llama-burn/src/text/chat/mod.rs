//! Chat templates: a conversation as the text that the model was trained on.

mod encode;
mod environment;
mod escape;
mod fault;
mod files;
mod globals;
mod header;
#[cfg(test)]
mod jinja_tests;
mod letters;
mod methods;
mod numbers;
mod operator;
mod percent;
mod print;
mod python;
mod render;
#[cfg(test)]
mod tests;
mod text;
mod turns;

use std::collections::BTreeMap;
use std::error::Error;
use std::hash::{Hash, Hasher};
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde::Serialize;
use serde_json::Map;

use self::environment::Raised;
use self::files::DEFAULT;
use self::render::Rendered;
use crate::error::{Result, TemplateError};
use crate::text::message::Conversation;
use crate::text::special::SpecialTokens;

/// minijinja's kinds of errors about functions, filters, tests and methods that it does not have.
const UNKNOWN: [ErrorKind; 4] =
    [ErrorKind::UnknownFilter, ErrorKind::UnknownFunction, ErrorKind::UnknownMethod, ErrorKind::UnknownTest];
/// The template that is taken for conversations with tools, where a model has one of this name.
const TOOL_USE: &str = "tool_use";

/// The Jinja chat templates of a model, rendered as transformers' `apply_chat_template` renders them.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// By name, whether a template marks what the assistant says with `{% generation %}`.
    marks: BTreeMap<String, bool>,
}

impl ChatTemplate {
    /// The templates of a model directory: `chat_template.jinja`, `additional_chat_templates/`, `chat_template` of
    /// `tokenizer_config.json` (a string, or several with names), `chat_template.json`.
    ///
    /// # Errors
    /// [`TemplateError::Missing`] and [`TemplateError::Malformed`]; a file that cannot be read, or is not JSON.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        Ok(Self::find(dir)?.ok_or_else(|| TemplateError::Missing { dir: Some(dir.to_owned()) })?)
    }

    /// As [`Self::from_dir`]; `None` where the directory has no template.
    ///
    /// # Errors
    /// [`TemplateError::Malformed`]; a file that cannot be read, or is not JSON.
    pub fn find(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        Self::find_with(dir.as_ref(), &SpecialTokens::from_dir(dir.as_ref())?)
    }

    /// The source of a directory's default template.
    pub(crate) fn source_in(dir: &Path) -> Result<Option<String>> {
        Ok(files::find(dir)?.remove(files::DEFAULT))
    }

    /// The template of a directory whose special tokens are known from elsewhere.
    pub(super) fn find_with(dir: &Path, special: &SpecialTokens) -> Result<Option<Self>> {
        let sources = files::find(dir)?;
        if sources.is_empty() { Ok(None) } else { Self::named(&sources, special).map(Some) }
    }

    /// A template from its source, with the special tokens it may name.
    ///
    /// # Errors
    /// [`TemplateError::Malformed`].
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self> {
        Self::named(&BTreeMap::from([(DEFAULT.to_string(), source.to_string())]), special)
    }

    fn named(sources: &BTreeMap<String, String>, special: &SpecialTokens) -> Result<Self> {
        let mut environment = environment::jinja().map_err(|error| malformed(&error))?;
        for (name, token) in special.iter() {
            environment.add_global(name.to_owned(), token);
        }
        let mut marks = BTreeMap::new();
        for (name, source) in sources {
            let (source, marked) = environment::adapted(source);
            marks.insert(name.clone(), marked);
            environment.add_template_owned(name.clone(), source).map_err(|error| match name.as_str() {
                DEFAULT => malformed(&error),
                name => TemplateError::Malformed { message: format!("`{name}`: {}", words(&error)) },
            })?;
        }
        Ok(Self { environment, marks })
    }

    /// Sets a variable that the template sees, as a keyword argument of `apply_chat_template` does: Llama-3.2's
    /// `date_string`, for one, which otherwise is today's. `template_kwargs` of a conversation come before it.
    pub fn set_variable(&mut self, name: &str, value: impl Serialize) {
        self.environment.add_global(name.to_string(), Value::from(Serde(value)));
    }

    /// Whether a template's source has the word `name`: a key of messages or a variable that it does not have changes
    /// nothing.
    pub fn mentions(&self, name: &str) -> bool {
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        self.sources().any(|source| {
            source
                .match_indices(name)
                .any(|(at, _)| !source[..at].ends_with(inside) && !source[at + name.len()..].starts_with(inside))
        })
    }

    /// Adds the templates' names and sources.
    pub(super) fn hash_sources(&self, hash: &mut impl Hasher) {
        for (name, template) in self.marks.keys().zip(self.sources()) {
            (name, template).hash(hash);
        }
    }

    fn sources(&self) -> impl Iterator<Item = String> {
        let source = |name| self.environment.get_template(name).map(|template| template.source().to_string());
        self.marks.keys().map(move |name| source(name).unwrap_or_default())
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the assistant is to go on.
    ///
    /// A conversation with tools takes the template named `tool_use`, where there is one, and else the default.
    ///
    /// # Errors
    /// [`TemplateError::Refused`] where the template refuses the conversation (`raise_exception`), [`TemplateError::Failed`] where it
    /// fails, [`TemplateError::Unsupported`] where it uses what is not supported, [`TemplateError::NoMessages`].
    pub fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String> {
        Ok(self.rendered(conversation, add_generation_prompt)?.text)
    }

    /// As [`Self::render`], with the places of messages and generation blocks.
    fn rendered(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<Rendered> {
        if conversation.messages.is_empty() {
            return Err(TemplateError::NoMessages.into());
        }
        let name = self.name(conversation)?;
        let template = self.environment.get_template(name).map_err(|error| malformed(&error))?;
        let messages: Vec<Value> = conversation.messages.iter().map(|message| plain_message(&message.0)).collect();
        let tools = match conversation.tools.as_slice() {
            [] => Value::from(()),
            tools => Value::from(Serde(tools)),
        };
        let context = |messages: Value, functions: [(&'static str, Value); 2]| {
            let mut variables: BTreeMap<String, Value> = BTreeMap::new();
            for (name, value) in &conversation.template_kwargs {
                variables.insert(name.clone(), Value::from(Serde(value)));
            }
            // transformers always defines `tools` and `documents`, and templates ask whether they are none.
            variables.entry("documents".into()).or_insert_with(|| Value::from(()));
            variables.insert("tools".into(), tools.clone());
            variables.insert("messages".into(), messages);
            variables.insert("add_generation_prompt".into(), add_generation_prompt.into());
            variables.extend(functions.map(|(name, function)| (name.to_string(), function)));
            Value::from(variables)
        };
        Ok(render::render(&template, &messages, context).map_err(|error| failed(&error))?)
    }

    /// Whether the conversation's template marks what the assistant says.
    fn marks(&self, conversation: &Conversation) -> Result<bool> {
        Ok(self.marks.get(self.name(conversation)?) == Some(&true))
    }

    fn name(&self, conversation: &Conversation) -> Result<&str> {
        let has = |name: &&str| self.marks.contains_key(*name);
        let wanted = [TOOL_USE, DEFAULT];
        let wanted = if conversation.tools.is_empty() { &wanted[1..] } else { &wanted[..] };
        wanted.iter().copied().find(has).ok_or_else(|| {
            let names = self.marks.keys().cloned().collect();
            TemplateError::NoDefault { names }.into()
        })
    }
}

/// A message as transformers gives it to templates: without keys that are null, and with reasoning under its standard
/// name, `reasoning_content`, whichever of the three names it came under.
fn plain_message(message: &Map<String, serde_json::Value>) -> Value {
    let mut message = message.clone();
    message.retain(|_, value| !value.is_null());
    let reasoning =
        ["reasoning_content", "thinking", "reasoning"].into_iter().find_map(|key| message.get(key).cloned());
    if let Some(reasoning) = reasoning {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".into(), reasoning);
    }
    Value::from(Serde(message))
}

fn malformed(error: &minijinja::Error) -> TemplateError {
    TemplateError::Malformed { message: words(error) }
}

fn failed(error: &minijinja::Error) -> TemplateError {
    let message = words(error);
    let raised = causes(error).any(|cause| cause.is::<Raised>());
    let unknown = |error: &minijinja::Error| {
        // `%` behind a text that no quotes hold.
        let formats = error.detail().is_some_and(|words| words.contains("use % operator"));
        UNKNOWN.contains(&error.kind()) || formats
    };
    let unknown_within = causes(error).filter_map(|cause| cause.downcast_ref()).any(unknown);
    match unknown(error) || unknown_within {
        _ if raised => TemplateError::Refused { message },
        true => TemplateError::Unsupported { message },
        false => TemplateError::Failed { message },
    }
}

/// The error's words and those of its causes.
fn words(error: &minijinja::Error) -> String {
    let causes = causes(error).filter(|cause| !cause.is::<Raised>());
    causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}"))
}

fn causes(error: &minijinja::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    fn next<'a>(cause: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        (**cause).source()
    }
    std::iter::successors(error.source(), next)
}
