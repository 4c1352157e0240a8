//! A fingerprint of everything that the tokens of a text depend on: tokens that are kept belong to it.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::encode::Text;

impl Text {
    /// Differs where the tokenizer, the chat templates or the stop tokens differ. It holds within one build of the
    /// program. Where a template asks for today's date, the day is part of it.
    pub fn fingerprint(&self) -> String {
        let mut hash = DefaultHasher::new();
        self.tokenizer.hash_source(&mut hash);
        self.stop.ids().hash(&mut hash);
        let mut text = String::new();
        if let Some(template) = &self.template {
            template.hash_sources(&mut hash);
            if template.mentions("strftime_now") {
                text = format!("{} ", jiff::Zoned::now().date());
            }
        }
        text + &format!("{:016x}", hash.finish())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::text::{ChatTemplate, StopTokens, Tokenizer};

    fn text(template: Option<&str>, config: &[u8], stop: &[u32]) -> Text {
        let json = include_bytes!("../../tests/fixtures/tokenizer/tokenizer.json");
        let tokenizer = Tokenizer::from_bytes(json, Some(config)).unwrap();
        let template = template.map(|source| ChatTemplate::new(source, tokenizer.special_tokens()).unwrap());
        Text { tokenizer, template, stop: StopTokens::new(stop.iter().copied()) }
    }

    #[test]
    fn tokenizer_template_and_stop_tokens_count() {
        let same = || text(Some("a"), b"{}", &[1]).fingerprint();
        assert_eq!(same(), same());
        let others = [
            text(Some("b"), b"{}", &[1]),
            text(None, b"{}", &[1]),
            text(Some("a"), br#"{"eos_token": "<|eot_id|>"}"#, &[1]),
            text(Some("a"), b"{}", &[2]),
        ];
        assert!(others.iter().all(|other| other.fingerprint() != same()));
        assert!(text(Some("{{ strftime_now('%d') }}"), b"{}", &[]).fingerprint().starts_with("20"));
    }

    #[test]
    fn a_template_mentions_whole_words() {
        let template = text(Some("{{ m.tool_calls }}{{ reasoning_content }}"), b"{}", &[]).template.unwrap();
        assert!(template.mentions("tool_calls") && template.mentions("reasoning_content"));
        assert!(!template.mentions("tool") && !template.mentions("content"));
    }
}
