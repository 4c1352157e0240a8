//! Decoding while generating: text is handed out as soon as it is certain.

use super::Tokenizer;
use crate::error::Result;

/// Turns ids into text one by one. A character whose bytes are spread over several tokens comes with the last of them.
///
/// What [`push`](Self::push) and, at the end, [`finish`](Self::finish) return makes up what [`Tokenizer::decode`]
/// would return for all ids.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    /// The ids behind the text last returned, then those not returned yet: a decoder that treats the first token
    /// differently (a leading space) needs the former before the latter.
    ids: Vec<u32>,
    returned: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, ids: Vec::new(), returned: 0 }
    }

    /// Takes the next id, and returns the text that is complete with it; empty while a character is not.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.pending()?;
        // A replacement character at the end may be the beginning of a character to come.
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.returned);
        self.returned = self.ids.len();
        Ok(text)
    }

    /// Returns what is left: bytes that never became a character, as U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(mut self) -> Result<String> {
        let text = self.pending()?;
        self.ids.clear();
        Ok(text)
    }

    /// The text of the ids not returned yet.
    fn pending(&self) -> Result<String> {
        let known = self.tokenizer.decode(&self.ids[..self.returned], self.skip_special_tokens)?;
        let text = self.tokenizer.decode(&self.ids, self.skip_special_tokens)?;
        Ok(text.get(known.len()..).unwrap_or_default().to_string())
    }
}
