//! A request while it waits and runs.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use fused_burn::Block;
use llama_burn::{Finish, Text, TextDecoder, TokenLogprob, Tokenizer};

use crate::error::{Result, ServeError};
use crate::request::{Event, Request, Sink, Usage};
use crate::store::Resident;

/// The tokenizer of a text that many share.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Text>);

impl Deref for Shared {
    type Target = Tokenizer;

    fn deref(&self) -> &Tokenizer {
        &self.0.tokenizer
    }
}

/// A place among the requests that are open, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(pub Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request while it waits and runs.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Requests are numbered as they come.
    pub id: u64,
    /// Whose adapter; `None` is the base.
    pub adapter: Option<Arc<str>>,
    sink: Sink,
    /// Its adapter, once it runs. It keeps the generation that it began with.
    pub lease: Option<Arc<Resident>>,
    /// Its text.
    decoder: TextDecoder<Shared>,
    /// How many of them have their keys and values in the blocks.
    pub cached: usize,
    pub blocks: Vec<Block>,
    /// Whether the prompt's tokens have log-probabilities, and those that are known so far.
    asks_for_prompt: bool,
    prompt_logprobs: Vec<Option<TokenLogprob>>,
    pub arrived: Instant,
    pub first_token: Option<Instant>,
    pub last_token: Option<Instant>,
    /// Since when it waits for memory for its adapter.
    pub no_room_since: Option<Instant>,
    /// The load of its adapter that it waits for.
    pub asked: Option<u64>,
    _place: Option<Place>,
}

impl Sequence {
    /// A request that has just come. `text` is what makes text of tokens.
    ///
    /// # Errors
    /// Sampling options out of range.
    pub fn new(id: u64, request: Request, text: Option<Arc<Text>>, sink: Sink, now: Instant) -> Result<Self> {
        let (options, adapter, asks_for_prompt) = (request.options(), request.adapter, request.prompt_logprobs);
        let decoder = TextDecoder::new(request.prompt, options, text.map(Shared), 0)
            .map_err(|error| ServeError::Invalid { message: error.to_string(), param: None, code: None })?;
        Ok(Self {
            id,
            adapter,
            sink,
            lease: None,
            decoder,
            cached: 0,
            blocks: Vec::new(),
            asks_for_prompt,
            prompt_logprobs: Vec::new(),
            arrived: now,
            first_token: None,
            last_token: None,
            no_room_since: None,
            asked: None,
            _place: None,
        })
    }

    /// With a place that is its own until it ends.
    pub fn counted(self, place: Place) -> Self {
        Self { _place: Some(place), ..self }
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.sink.is_closed()
    }

    /// Tokens that are to be run.
    pub fn left_to_run(&self) -> usize {
        self.tokens().len() - self.cached
    }

    /// The prompt's tokens.
    pub fn prompt(&self) -> &[u32] {
        self.decoder.prompt()
    }

    /// The prompt and what was generated.
    pub fn tokens(&self) -> &[u32] {
        self.decoder.tokens()
    }

    /// New tokens so far.
    pub fn generated(&self) -> usize {
        self.decoder.generated()
    }

    /// Whether the prompt's log-probabilities are still to be sent.
    pub fn wants_prompt_logprobs(&self) -> bool {
        self.asks_for_prompt && self.prompt_logprobs.len() < self.prompt().len()
    }

    /// Takes the logits at a place of the prompt.
    pub fn see_prompt(&mut self, place: usize, logits: &[f32]) {
        if self.prompt_logprobs.is_empty() {
            self.prompt_logprobs.push(None);
        }
        // Places that were seen before the sequence was set back are known.
        if place + 1 == self.prompt_logprobs.len()
            && let Some(&next) = self.decoder.prompt().get(place + 1)
        {
            let top = self.decoder.options().logprobs.unwrap_or(0);
            self.prompt_logprobs.push(Some(TokenLogprob::new(logits, next, top)));
        }
    }

    /// Sends the prompt's log-probabilities, once.
    pub fn send_prompt(&mut self) {
        if self.asks_for_prompt && self.generated() == 0 && self.first_token.is_none() {
            self.send(Event::Prompt(self.prompt_logprobs.clone()));
        }
    }

    /// Chooses the next token from `logits` and sends what text is certain. Returns why the text ends, if it does.
    ///
    /// # Errors
    /// Logits that leave no choice.
    pub fn advance(&mut self, logits: &[f32], context: usize) -> Result<Option<Finish>> {
        let (piece, ended) =
            self.decoder.advance(logits, context).map_err(|error| ServeError::Failed(error.to_string()))?;
        if let Some(piece) = piece {
            self.send(Event::Tokens(piece));
        }
        Ok(ended)
    }

    /// The tokens that it took.
    pub fn usage(&self) -> Usage {
        Usage { prompt_tokens: self.prompt().len(), completion_tokens: self.generated() }
    }

    /// Sends an event; nobody may be there to read it.
    pub fn send(&self, event: Event) {
        let _ = self.sink.send(event);
    }
}
