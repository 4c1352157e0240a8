//! Examples to learn from: texts, prompts with completions, and chats as token ids, with the ids that are learned.

use std::path::Path;

use super::chat::ChatTemplate;
use super::message::{Conversation, Message};
use super::stop::StopTokens;
use super::tokenizer::Tokenizer;
use crate::error::{Result, TemplateError};
use crate::gguf;

/// The text side of a model directory.
#[derive(Clone, Debug)]
pub struct Text {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, if the model has one.
    pub template: Option<ChatTemplate>,
    /// The tokens that end a text.
    pub stop: StopTokens,
}

/// Token ids, and for each of them whether it is learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// As long as `ids`.
    pub targets: Vec<bool>,
    /// Whether the tokens of the prompt alone are not how the tokens of the whole begin: a token reaches over the border,
    /// or the template renders the prompt otherwise than the beginning of the whole. What follows the tokens that both
    /// have in common is learned, as in TRL.
    pub border_moved: bool,
    /// Whether it begins with two beginning-of-text tokens: one from the text and one from the tokenizer.
    pub doubled_bos: bool,
    /// The header that the template writes before the words of the assistant, where it is learned with them: the template has no
    /// generation prompt.
    pub learned_header: Option<String>,
}

impl Text {
    /// Reads the files of a model directory, or a GGUF file; `None` where there is no `tokenizer.json`.
    ///
    /// # Errors
    /// [`LlamaError`](crate::LlamaError) for files that are there but broken.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        let dir = &gguf::directory(dir.as_ref())?;
        if !dir.join("tokenizer.json").exists() && !dir.join("tokenizer.model").exists() {
            return Ok(None);
        }
        let tokenizer = Tokenizer::from_dir(dir)?;
        let stop = StopTokens::from_dir(dir, &tokenizer)?;
        // A model without a template is fine until a chat is asked for.
        Ok(Some(Self { template: ChatTemplate::find_with(dir, tokenizer.special_tokens())?, tokenizer, stop }))
    }

    /// A text, all of it learned, with the token that ends it (unless it ends with that already).
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_text(&self, text: &str) -> Result<Encoded> {
        let ids = self.encode_ended("", text)?;
        Ok(self.encoded(ids, 0))
    }

    /// A prompt and how it goes on; the completion is learned, and the token that ends it.
    ///
    /// The ids are those of the joined text. The completion begins where they differ from the ids of the prompt alone,
    /// as in TRL 1.16: where a token reaches over the border, it is learned as a whole.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Encoded> {
        let alone = self.tokenizer.encode(prompt, true)?;
        let ids = self.encode_ended(prompt, completion)?;
        Ok(self.continued(&alone, ids))
    }

    /// A conversation, of which the assistant's turns are learned.
    ///
    /// # Errors
    /// [`LlamaError::Template`](crate::LlamaError::Template) without a template, or where it refuses the conversation;
    /// [`LlamaError::Tokenizer`](crate::LlamaError::Tokenizer).
    pub fn encode_chat(&self, conversation: &Conversation) -> Result<Encoded> {
        let (ids, targets) = self.template()?.encode(conversation, &self.tokenizer, &self.stop)?;
        Ok(Encoded { targets, ..self.encoded(ids, 0) })
    }

    /// A conversation, all of it learned.
    ///
    /// # Errors
    /// As [`Self::encode_chat`], but for turns that cannot be told apart.
    pub fn encode_whole_chat(&self, conversation: &Conversation) -> Result<Encoded> {
        let ids = self.tokenizer.encode(&self.template()?.render(conversation, false)?, false)?;
        Ok(self.encoded(ids, 0))
    }

    /// A conversation, of which all that follows the prompt is learned, as TRL 1.16 learns a conversational prompt and
    /// completion. `prompt` is what the assistant is given; its tools and template variables hold for both.
    ///
    /// # Errors
    /// As [`Self::encode_chat`].
    pub fn encode_chat_completion(&self, prompt: &Conversation, completion: &[Message]) -> Result<Encoded> {
        let alone = self.encode_chat_prompt(prompt)?;
        let mut whole = prompt.clone();
        whole.messages.extend_from_slice(completion);
        let ids = self.tokenizer.encode(&self.template()?.render(&whole, false)?, false)?;
        let by_assistant = completion.first().is_some_and(|message| message.role() == "assistant");
        let learned_header = if by_assistant { self.template()?.header_without_prompt(prompt) } else { None };
        Ok(Encoded { learned_header, ..self.continued(&alone, ids) })
    }

    /// The ids of a conversation that the assistant is to go on with.
    ///
    /// # Errors
    /// As [`Self::encode_chat`].
    pub fn encode_chat_prompt(&self, conversation: &Conversation) -> Result<Vec<u32>> {
        self.tokenizer.encode(&self.template()?.render(conversation, true)?, false)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        Ok(self.template.as_ref().ok_or(TemplateError::Missing { dir: None })?)
    }

    /// The ids of `prompt` and `said` with a stop token at the end: put behind them, as TRL does, where `said` does not end so.
    fn encode_ended(&self, prompt: &str, said: &str) -> Result<Vec<u32>> {
        let text = &[prompt, said].concat();
        let Some(eos) = self.stop.first() else { return self.tokenizer.encode(text, true) };
        let closes = self.tokenizer.closing_token_id() == Some(eos);
        match self.tokenizer.special_text(eos) {
            Some(token) if !closes && !said.ends_with(&token) => {
                self.tokenizer.encode(&[text, token.as_str()].concat(), true)
            }
            Some(_) => self.tokenizer.encode(text, true),
            // Not a token that can stand in a text.
            None => {
                let mut ids = self.tokenizer.encode(text, true)?;
                if ids.last() != Some(&eos) {
                    ids.push(eos);
                }
                Ok(ids)
            }
        }
    }

    fn continued(&self, prompt: &[u32], ids: Vec<u32>) -> Encoded {
        let start = common_prefix(prompt, &ids);
        Encoded { border_moved: start < prompt.len(), ..self.encoded(ids, start) }
    }

    fn encoded(&self, ids: Vec<u32>, start: usize) -> Encoded {
        let doubled_bos = ids.len() > 1 && ids[0] == ids[1] && Some(ids[0]) == self.tokenizer.bos_token_id();
        Encoded {
            targets: (0..ids.len()).map(|at| at >= start).collect(),
            ids,
            border_moved: false,
            doubled_bos,
            learned_header: None,
        }
    }
}

/// How many tokens at their beginning are the same.
fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
