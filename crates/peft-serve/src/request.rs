//! What is asked of the engine, and what it answers.

use llama_burn::{SamplingConfig, TokenLogprob};
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::error::ServeError;

/// A text to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose adapter; `None` is the base.
    pub adapter: Option<Arc<str>>,
    /// The prompt's tokens, at least one.
    pub prompt: Vec<u32>,
    /// At most so many new tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingConfig,
    /// Strings that end the text. They are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the text. They are not part of it.
    pub stop_ids: Vec<u32>,
    /// Log-probabilities of the new tokens, with so many of the most likely ones each.
    pub logprobs: Option<usize>,
    /// Whether the prompt's tokens have them too.
    pub prompt_logprobs: bool,
}

impl Request {
    /// A request for 16 tokens after `prompt`, the most likely ones, from the base.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            adapter: None,
            prompt,
            max_tokens: 16,
            sampling: SamplingConfig::default(),
            stop: Vec::new(),
            stop_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: false,
        }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// At a token or a string that ends texts.
    Stop,
    /// At the largest number of tokens, or of the model's context.
    Length,
}

impl Finish {
    /// As OpenAI names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// How many tokens a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: usize,
    /// New ones, the one that ended the text included.
    pub completion_tokens: usize,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt's log-probabilities, where they were asked for: none for its first token.
    Prompt(Vec<Option<TokenLogprob>>),
    /// More of the text.
    Tokens {
        /// New tokens whose text is whole now. They are more than `text` shows where a stop string may have begun.
        ids: Vec<u32>,
        /// Text that is certain; empty without a tokenizer.
        text: String,
        /// One for each of `ids`, where they were asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// The end.
    Finished {
        /// Why.
        reason: Finish,
        /// What it took.
        usage: Usage,
    },
    /// The end without an answer, or without the rest of it.
    Failed(ServeError),
}

pub(crate) type Sink = UnboundedSender<Event>;

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    pub(crate) events: UnboundedReceiver<Event>,
}

impl Answer {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// As [`Self::next`], outside of async code.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// An event that is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}
