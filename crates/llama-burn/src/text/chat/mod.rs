//! Chat templates: a conversation as the text that the model was trained on.

mod encode;
mod environment;
mod files;
mod python;
mod render;
mod turns;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde::Serialize;
use serde_json::Map;

use self::files::DEFAULT;
use self::render::Rendered;
use crate::error::{LlamaError, Result};
use crate::text::message::Conversation;
use crate::text::special::SpecialTokens;

/// The template that is taken for conversations with tools, where a model has one of this name.
const TOOL_USE: &str = "tool_use";

/// The Jinja chat templates of a model, rendered as transformers' `apply_chat_template` renders them.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    traits: BTreeMap<String, Traits>,
}

/// What a template's source tells.
#[derive(Clone, Copy, Debug)]
struct Traits {
    /// It marks what the assistant says with `{% generation %}`.
    marks: bool,
    /// Its loops look at the next message, so that they come to messages too early.
    looks_ahead: bool,
}

impl ChatTemplate {
    /// The templates of a model directory: `chat_template.jinja`, `additional_chat_templates/`, `chat_template` of
    /// `tokenizer_config.json` (a string, or several with names), `chat_template.json`.
    ///
    /// # Errors
    /// [`LlamaError::Template`] where the directory has no template or a malformed one, [`LlamaError::Io`],
    /// [`LlamaError::Json`].
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        Self::find(dir)?.ok_or_else(|| LlamaError::Template {
            message: format!(
                "{}: the model has no chat template; use a chat model, put a chat_template.jinja beside its tokenizer, \
                 or give plain prompts",
                dir.display()
            ),
        })
    }

    /// As [`Self::from_dir`]; `None` where the directory has no template.
    ///
    /// # Errors
    /// [`LlamaError::Template`] where a template is malformed, [`LlamaError::Io`], [`LlamaError::Json`].
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
    /// [`LlamaError::Template`] where the source is malformed.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self> {
        Self::named(&BTreeMap::from([(DEFAULT.to_string(), source.to_string())]), special)
    }

    fn named(sources: &BTreeMap<String, String>, special: &SpecialTokens) -> Result<Self> {
        let mut environment = environment::jinja().map_err(template_error)?;
        for (name, token) in special.iter() {
            environment.add_global(name, token);
        }
        let mut traits = BTreeMap::new();
        for (name, source) in sources {
            let (source, marks) = environment::with_generation_calls(source);
            traits.insert(name.clone(), Traits { marks, looks_ahead: source.contains("nextitem") });
            environment.add_template_owned(name.clone(), source).map_err(|error| match template_error(error) {
                LlamaError::Template { message } if name != DEFAULT => {
                    LlamaError::Template { message: format!("`{name}`: {message}") }
                }
                error => error,
            })?;
        }
        Ok(Self { environment, traits })
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
        for (name, template) in self.traits.keys().zip(self.sources()) {
            (name, template).hash(hash);
        }
    }

    fn sources(&self) -> impl Iterator<Item = String> {
        let source = |name| self.environment.get_template(name).map(|template| template.source().to_string());
        self.traits.keys().map(move |name| source(name).unwrap_or_default())
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the assistant is to go on.
    ///
    /// A conversation with tools takes the template named `tool_use`, where there is one, and else the default.
    ///
    /// # Errors
    /// [`LlamaError::Template`] where the template refuses the conversation (`raise_exception`) or fails.
    pub fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String> {
        Ok(self.rendered(conversation, add_generation_prompt)?.text)
    }

    /// As [`Self::render`], with the places of messages and generation blocks.
    fn rendered(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<Rendered> {
        if conversation.messages.is_empty() {
            return Err(LlamaError::Template { message: "the conversation has no message; give at least one".into() });
        }
        let name = self.name(conversation)?;
        let template = self.environment.get_template(name).map_err(template_error)?;
        let messages: Vec<Value> = conversation.messages.iter().map(|message| plain_message(&message.0)).collect();
        let tools = match conversation.tools.as_slice() {
            [] => Value::from(()),
            tools => Value::from(Serde(tools)),
        };
        let context = |messages: Value, generation: Value| {
            let mut variables: BTreeMap<String, Value> = BTreeMap::new();
            for (name, value) in &conversation.template_kwargs {
                variables.insert(name.clone(), Value::from(Serde(value)));
            }
            // transformers always defines `tools` and `documents`, and templates ask whether they are none.
            variables.entry("documents".into()).or_insert_with(|| Value::from(()));
            variables.insert("tools".into(), tools.clone());
            variables.insert("messages".into(), messages);
            variables.insert("add_generation_prompt".into(), add_generation_prompt.into());
            variables.insert(render::GENERATION.into(), generation);
            Value::from(variables)
        };
        render::render(&template, &messages, context).map_err(template_error)
    }

    fn traits(&self, conversation: &Conversation) -> Result<Traits> {
        let name = self.name(conversation)?;
        Ok(self.traits.get(name).copied().unwrap_or(Traits { marks: false, looks_ahead: true }))
    }

    fn name(&self, conversation: &Conversation) -> Result<&str> {
        let has = |name: &&str| self.traits.contains_key(*name);
        let wanted = [TOOL_USE, DEFAULT];
        let wanted = if conversation.tools.is_empty() { &wanted[1..] } else { &wanted[..] };
        wanted.iter().copied().find(has).ok_or_else(|| {
            let names: Vec<&str> = self.traits.keys().map(String::as_str).collect();
            let message = format!("no chat_template is named \"default\"; there are: {}", names.join(", "));
            LlamaError::Template { message }
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

fn template_error(error: minijinja::Error) -> LlamaError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    LlamaError::Template { message }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

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
        let special = SpecialTokens::from_json(CONFIG, Path::new("tokenizer_config.json")).unwrap();
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
                template_kwargs: case
                    .get("chat_template_kwargs")
                    .and_then(Json::as_object)
                    .cloned()
                    .unwrap_or_default(),
                ..Conversation::default()
            };
            let rendered = template.render(&conversation, case["add_generation_prompt"].as_bool().unwrap());
            let same = match (case["text"].as_str(), &rendered) {
                (Some(text), Ok(rendered)) => rendered == text,
                (None, Err(error)) => {
                    // What a template says itself; Jinja's own errors have other words here.
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
        let render =
            || ChatTemplate::from_dir(dir.path())?.render(&Conversation::new([Message::new("user", "x")]), false);
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
        assert!(
            error().contains("chat_template must be a string or a list of named templates, but is 7"),
            "{}",
            error()
        );
        config(json!({"chat_template": "line one\n{% for %}"}));
        assert!(error().starts_with("chat template: syntax error: "), "{}", error());
        assert!(error().contains("default:2"), "{}", error());
        assert!(ChatTemplate::find(dir.path()).is_err());
    }
}
