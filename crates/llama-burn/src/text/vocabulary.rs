//! The tokens that a tokenizer has.

use super::tokenizer::Tokenizer;

impl Tokenizer {
    /// How many tokens there are, added ones included (`len(tokenizer)` of transformers). A model's `vocab_size` is
    /// often a little more, rounded up.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token by its text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes of a token, which may be a part of a character; `None` for an id outside of the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.inner.id_to_token(id)?;
        let text = self.decode(&[id], false).ok()?;
        if !text.contains(char::REPLACEMENT_CHARACTER) {
            return Some(text.into_bytes());
        }
        // Vocabularies of bytes write each as a character, or as its number (`<0xE2>`).
        let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            return Some(vec![byte]);
        }
        let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
        Some(bytes.unwrap_or_else(|| text.into_bytes()))
    }

    /// A warning where this tokenizer has tokens that a model with `model_vocab_size` embeddings has none for: only text that
    /// uses them cannot be computed, which is found out row by row.
    pub fn beyond(&self, model_vocab_size: usize) -> Option<String> {
        let mut beyond: Vec<(u32, String)> = self
            .inner
            .get_vocab(true)
            .into_iter()
            .map(|(token, id)| (id, token))
            .filter(|(id, _)| *id as usize >= model_vocab_size)
            .collect();
        beyond.sort();
        let (id, token) = beyond.last()?;
        Some(format!(
            "{} tokens of {} are beyond the model's {model_vocab_size} embeddings, up to {token:?} (id {id}): text that uses \
             one of them is refused",
            beyond.len(),
            self.origin
        ))
    }

    /// The token of an id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

/// The byte that GPT-2's alphabet writes as `c`: printable bytes stand for themselves, the others for characters from 256 on.
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match u8::try_from(u32::from(c)) {
        Ok(byte) => printable(&byte).then_some(byte),
        Err(_) => (0..=255).filter(|byte| !printable(byte)).nth((u32::from(c) - 256) as usize),
    }
}
