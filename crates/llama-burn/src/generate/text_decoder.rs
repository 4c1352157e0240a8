//! One text as it is made: its tokens are chosen, and become text as soon as it is certain.

use std::ops::Deref;

use super::logprobs::TokenLogprob;
use super::options::GenerateOptions;
use super::sampling::Sampler;
use crate::error::Result;
use crate::text::{StopScanner, TextStream, Tokenizer};

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
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

/// More of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// New tokens whose text is whole now. They are more than `text` shows where a stop string may have begun.
    pub ids: Vec<u32>,
    /// Text that is certain; empty without a tokenizer.
    pub text: String,
    /// One for each of `ids`, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// Makes one text of the logits that a model gives for it. [`Generate`](super::Generate) and servers share it, so that
/// sampling, stop strings, whole characters and log-probabilities are the same in both.
///
/// `T` has the tokenizer: a reference, or something shared.
#[derive(Debug)]
pub struct TextDecoder<T> {
    options: GenerateOptions,
    /// The prompt and the new tokens.
    tokens: Vec<u32>,
    prompt: usize,
    sampler: Sampler,
    stream: Option<TextStream<T>>,
    scanner: StopScanner,
    /// Tokens whose text is not whole yet.
    pending: Piece,
}

impl<T: Deref<Target = Tokenizer>> TextDecoder<T> {
    /// Of the text after `prompt`, for row `row` of a batch, each of which draws its own random numbers. Without a
    /// tokenizer there are ids alone, and stop strings find nothing.
    ///
    /// # Errors
    /// Sampling options out of range.
    pub fn new(prompt: Vec<u32>, options: GenerateOptions, tokenizer: Option<T>, row: u64) -> Result<Self> {
        Ok(Self {
            sampler: Sampler::for_row(options.sampling.clone(), row)?,
            stream: tokenizer.map(|tokenizer| TextStream::new(tokenizer, true).after(&prompt)).transpose()?,
            scanner: StopScanner::new(&options.stop_strings),
            prompt: prompt.len(),
            tokens: prompt,
            pending: Piece::default(),
            options,
        })
    }

    /// The prompt and the new tokens, one that ended the text included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt]
    }

    /// New tokens so far.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt
    }

    /// The settings that it was made with.
    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// Chooses the next token by `logits`, one for each token of the vocabulary. Returns what is certain now, if anything
    /// is, and why the text ends, if it does; nothing may be asked after that. `context` tokens are the most, prompt
    /// included.
    ///
    /// # Errors
    /// Logits that leave no choice, and tokens that the tokenizer does not know.
    pub fn advance(&mut self, logits: &[f32], context: usize) -> Result<(Option<Piece>, Option<Finish>)> {
        if self.options.max_new_tokens == 0 {
            return Ok((None, Some(Finish::Length)));
        }
        let id = self.sampler.sample(logits, &self.tokens)?;
        self.tokens.push(id);
        if self.options.stop.contains(&id) {
            return Ok((self.flush()?, Some(Finish::Stop)));
        }
        if let Some(top) = self.options.logprobs {
            self.pending.logprobs.push(TokenLogprob::new(logits, id, top));
        }
        self.pending.ids.push(id);
        let new = self.stream.as_mut().map(|stream| stream.push(id)).transpose()?;
        let certain = new.is_none();
        let (text, stopped) = self.scanner.push(&new.unwrap_or_default());
        self.pending.text.push_str(&text);
        if stopped {
            return Ok((self.take(), Some(Finish::Stop)));
        }
        if self.generated() >= self.options.max_new_tokens || self.tokens.len() >= context {
            return Ok((self.flush()?, Some(Finish::Length)));
        }
        Ok((if certain || !text.is_empty() { self.take() } else { None }, None))
    }

    /// The text that was held back.
    fn flush(&mut self) -> Result<Option<Piece>> {
        let rest = self.stream.take().map(TextStream::finish).transpose()?.unwrap_or_default();
        let (text, stopped) = self.scanner.push(&rest);
        self.pending.text.push_str(&text);
        if !stopped {
            self.pending.text.push_str(&self.scanner.finish());
        }
        Ok(self.take())
    }

    fn take(&mut self) -> Option<Piece> {
        let piece = std::mem::take(&mut self.pending);
        (!piece.ids.is_empty() || !piece.text.is_empty()).then_some(piece)
    }
}
