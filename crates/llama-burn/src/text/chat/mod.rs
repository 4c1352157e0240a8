//! Chat templates: a conversation as the text that the model was trained on.

mod encode;
mod environment;

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use crate::error::{LlamaError, Result};
use crate::text::message::Conversation;
use crate::text::special::SpecialTokens;

/// The name of the template inside its environment, which errors show.
const NAME: &str = "chat_template";

/// A Jinja chat template, rendered as transformers' `apply_chat_template` renders it.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// The template of a model directory: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`
    /// (the one named `default`, if there are several).
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
    /// [`LlamaError::Template`] where the template is malformed, [`LlamaError::Io`], [`LlamaError::Json`].
    pub fn find(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        let dir = dir.as_ref();
        let special = SpecialTokens::from_dir(dir)?;
        let file = dir.join("chat_template.jinja");
        if file.exists() {
            let source = std::fs::read_to_string(&file).map_err(LlamaError::io(&file))?;
            return Self::new(&source, &special).map(Some);
        }
        let path = dir.join("tokenizer_config.json");
        let config: serde_json::Value = match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(LlamaError::json(&path))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LlamaError::io(path)(error)),
        };
        find_template(&config, &path)?.map(|source| Self::new(&source, &special)).transpose()
    }

    /// A template from its source, with the special tokens it may name.
    ///
    /// # Errors
    /// [`LlamaError::Template`] where the source is malformed.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self> {
        let mut environment = environment::jinja().map_err(template_error)?;
        for (name, token) in special.iter() {
            environment.add_global(name, token);
        }
        let source = environment::without_generation_tags(source);
        environment.add_template_owned(NAME, source).map_err(template_error)?;
        Ok(Self { environment })
    }

    /// Sets a variable that the template sees, as a keyword argument of `apply_chat_template` does: Llama-3.2's
    /// `date_string`, for one, which otherwise is today's.
    pub fn set_variable(&mut self, name: &str, value: impl Serialize) {
        self.environment.add_global(name.to_string(), Value::from(Serde(value)));
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the assistant is to go on.
    ///
    /// # Errors
    /// [`LlamaError::Template`] where the template refuses the conversation (`raise_exception`) or fails.
    pub fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(template_error)?;
        let messages = Value::from(Serde(&conversation.messages));
        let tools = match conversation.tools.as_slice() {
            [] => Value::from(()),
            tools => Value::from(Serde(tools)),
        };
        // transformers always defines `tools` and `documents`, and templates ask whether they are none.
        let context = context! { messages, add_generation_prompt, tools, documents => () };
        let context = context! { ..Value::from(Serde(&conversation.template_kwargs)), ..context };
        template.render(context).map_err(template_error)
    }
}

fn find_template(config: &serde_json::Value, path: &Path) -> Result<Option<String>> {
    let fail = |message: String| Err(LlamaError::Template { message: format!("{}: {message}", path.display()) });
    match config.get("chat_template") {
        Some(serde_json::Value::String(template)) => Ok(Some(template.clone())),
        Some(serde_json::Value::Array(templates)) => {
            let name = |template: &serde_json::Value| template.get("name").and_then(|n| n.as_str()).map(str::to_string);
            let default = templates.iter().find(|template| name(template).as_deref() == Some("default"));
            match default.and_then(|template| template.get("template")?.as_str()) {
                Some(template) => Ok(Some(template.to_string())),
                None => {
                    let names: Vec<_> = templates.iter().filter_map(name).collect();
                    fail(format!("no chat_template is named \"default\"; there are: {}", names.join(", ")))
                }
            }
        }
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(other) => fail(format!("chat_template must be a string or a list of named templates, but is {other}")),
    }
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
        assert!(error().contains("no chat_template is named \"default\"; there are: rag"), "{}", error());
        config(json!({"chat_template": 7}));
        assert!(
            error().contains("chat_template must be a string or a list of named templates, but is 7"),
            "{}",
            error()
        );
        config(json!({"chat_template": "line one\n{% for %}"}));
        assert!(error().starts_with("chat template: syntax error: "), "{}", error());
        assert!(error().contains("chat_template:2"), "{}", error());
        assert!(ChatTemplate::find(dir.path()).is_err());
    }
}
