//! Decoding while generating: text is handed out as soon as it is certain.

use super::tokenizer::Tokenizer;
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

    /// Takes the ids that come before the text to be returned: whether that text begins with a space can depend on them.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn after(mut self, prompt: &[u32]) -> Result<Self> {
        if let Some(last) = prompt.last() {
            self.push(*last)?;
        }
        Ok(self)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_bytes(include_bytes!("../../tests/fixtures/tokenizer/tokenizer.json"), None).unwrap()
    }

    #[test]
    fn characters_come_whole_and_pieces_make_up_the_text() {
        let tokenizer = tokenizer();
        let text = " the weather 世界 is 🦀\u{fffd}!";
        let ids = tokenizer.encode(text, true).unwrap();
        let mut stream = tokenizer.stream(true);
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        assert_eq!(pieces.concat(), text);
        for whole in ["世", "界", "🦀"] {
            assert!(pieces.iter().any(|piece| piece.contains(whole)), "{whole} is split: {pieces:?}");
        }
        assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 5, "{pieces:?}");
    }

    #[test]
    fn an_unfinished_character_comes_at_the_end() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("a🦀", false).unwrap();
        let mut stream = tokenizer.stream(true);
        let pieces: Vec<String> = ids[..3].iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["a", "", ""]);
        assert_eq!(stream.finish().unwrap(), tokenizer.decode(&ids[1..3], true).unwrap());
    }

    #[test]
    fn the_space_before_a_word_survives_a_decoder_that_strips_the_first() {
        let json = r#"{"version": "1.0", "added_tokens": [{"id": 2, "content": "<s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "model": {"type": "WordLevel", "vocab": {"▁one": 0, "▁two": 1, "<s>": 2}, "unk_token": "<s>"}}"#;
        let tokenizer = Tokenizer::from_bytes(json.as_bytes(), None).unwrap();
        let mut stream = tokenizer.stream(true);
        let pieces: Vec<String> = [2, 0, 1, 2, 0].into_iter().map(|id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["", "one", " two", "", " one"]);
        assert_eq!(tokenizer.decode(&[2, 0, 1, 2, 0], true).unwrap(), "one two one");
    }
}
