//! Decoding while generating: text is handed out as soon as it is certain.

use std::ops::Deref;

use super::tokenizer::Tokenizer;
use crate::error::Result;

/// More ids than any character has.
const CONTEXT: usize = 16;

/// Turns ids into text one by one. A character whose bytes are spread over several tokens comes with the last of them.
///
/// The pieces of [`push`](Self::push) and, at the end, [`finish`](Self::finish) make up the text that [`Tokenizer::decode`]
/// would return for all ids.
///
/// The tokenizer is borrowed, or shared (`Arc<Tokenizer>`).
#[derive(Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    skip_special_tokens: bool,
    /// The ids behind the text last returned, then those not returned yet: a decoder that treats the first token
    /// differently (a leading space) needs the former before the latter.
    ids: Vec<u32>,
    returned: usize,
}

impl Tokenizer {
    /// A decoder for ids that come one by one, as in generation.
    pub fn stream(&self, skip_special_tokens: bool) -> TextStream<&Self> {
        TextStream::new(self, skip_special_tokens)
    }
}

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// A stream of nothing yet; special tokens are left out if `skip_special_tokens`.
    pub fn new(tokenizer: T, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, ids: Vec::new(), returned: 0 }
    }

    /// Takes the ids of the text that comes before: whether a text begins with a space can depend on it.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn after(mut self, prompt: &[u32]) -> Result<Self> {
        // As few of the last ids as make whole characters: the last one alone may be the end of one only.
        let mut start = prompt.len();
        while start > 0 && prompt.len() - start < CONTEXT {
            start -= 1;
            let text = self.tokenizer.decode(&prompt[start..], self.skip_special_tokens)?;
            if !text.is_empty() && !text.starts_with(char::REPLACEMENT_CHARACTER) {
                break;
            }
        }
        self.ids = prompt[start..].to_vec();
        self.returned = self.ids.len();
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
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    /// The text of the ids not returned yet.
    fn pending(&self) -> Result<String> {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, self.skip_special_tokens);
        let (known, text) = (decode(&self.ids[..self.returned])?, decode(&self.ids)?);
        match text.strip_prefix(&known) {
            Some(new) => Ok(new.to_string()),
            // A decoder that falls back to bytes gives up a whole run of them for one that is wrong.
            None => decode(&self.ids[self.returned..]),
        }
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
    fn a_text_goes_on_where_a_prompt_ends_whatever_its_last_token_is() {
        // Byte level, and SentencePiece's manner with bytes for what has no token of its own.
        let spm = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "merges": [],
                "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, BYTES}}}"#;
        let bytes: Vec<String> = (0..256).map(|byte| format!("\"<0x{byte:02X}>\": {}", byte + 4)).collect();
        let spm = Tokenizer::from_bytes(spm.replace("BYTES", &bytes.join(", ")).as_bytes(), None).unwrap();
        for tokenizer in [tokenizer(), spm] {
            for prompt in ["a b", "caf\u{e9}", "a 世", "b🦀", "a ", "世界", ""] {
                for text in [" a b", "b", "é", " 世界", "🦀🦀 a", "\u{e9}b é"] {
                    let before = tokenizer.encode(prompt, false).unwrap();
                    let ids = tokenizer.encode(&[prompt, text].concat(), false).unwrap();
                    if ids[..before.len().min(ids.len())] != before {
                        continue;
                    }
                    let mut stream = tokenizer.stream(true).after(&before).unwrap();
                    let mut pieces: Vec<String> =
                        ids[before.len()..].iter().map(|&id| stream.push(id).unwrap()).collect();
                    pieces.push(stream.finish().unwrap());
                    let text = if prompt.is_empty() { tokenizer.decode(&ids, true).unwrap() } else { text.to_string() };
                    assert_eq!(pieces.concat(), text, "after {prompt:?}: {pieces:?}");
                }
            }
        }
    }

    #[test]
    fn bytes_that_become_no_character_do_not_take_others_with_them() {
        let tokenizer = tokenizer();
        let (crab, after) = (tokenizer.encode("🦀", false).unwrap(), tokenizer.encode("x", false).unwrap());
        let mut stream = tokenizer.stream(true).after(&crab).unwrap();
        let pieces: Vec<String> = [crab[0], after[0], crab[0]].iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["", "\u{fffd}x", ""]);
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
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
