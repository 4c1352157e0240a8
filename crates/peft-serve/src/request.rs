//! A request to the engine, and the events that answer it.

use llama_burn::{Finish, GenerateOptions, Piece, SamplingConfig, TokenLogprob};
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

    /// How its text is made.
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: self.max_tokens,
            sampling: self.sampling.clone(),
            stop: self.stop_ids.clone(),
            stop_strings: self.stop.clone(),
            logprobs: self.logprobs,
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

/// An event in the life of a request.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The prompt's log-probabilities, where they were asked for: none for its first token.
    Prompt(Vec<Option<TokenLogprob>>),
    /// More of the text.
    Tokens(Piece),
    /// The end.
    Finished {
        /// The reason of its end.
        reason: Finish,
        /// The tokens that it took.
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
