//! A conversation as token ids, with the tokens that training is to learn from.

use std::ops::Range;

use super::ChatTemplate;
use crate::error::{LlamaError, Result};
use crate::text::message::Conversation;
use crate::text::tokenizer::Tokenizer;

impl Tokenizer {
    /// The ids of a conversation, and which of them belong to assistant turns: what the assistant says and the token
    /// that ends its turn, but not the header before nor the white space after.
    ///
    /// Where a turn lies in the rendered text is found by rendering the conversation up to the turn (with the
    /// generation prompt) and up to its end. The ids are those of the whole text, as `apply_chat_template(tokenize=True)`
    /// of transformers gives them; only where a token would reach from a header into a turn are the two encoded apart,
    /// as they are when text is generated.
    ///
    /// # Errors
    /// [`LlamaError::Template`] where the template refuses the conversation, or renders a part of it otherwise than
    /// in the whole, so that turns cannot be told apart; [`LlamaError::Tokenizer`].
    pub(crate) fn encode_chat(
        &self,
        template: &ChatTemplate,
        conversation: &Conversation,
    ) -> Result<(Vec<u32>, Vec<bool>)> {
        let whole = template.render(conversation, false)?;
        let turns = assistant_turns(template, conversation, &whole)?;
        let mut tokens = self.encode_pieces(&whole, &[])?;
        let torn = |cut: &usize| tokens.iter().any(|token| token.place.start < *cut && *cut < token.place.end);
        let cuts: Vec<usize> = turns.iter().map(|turn| turn.start).filter(torn).collect();
        if !cuts.is_empty() {
            tokens = self.encode_pieces(&whole, &cuts)?;
        }
        let mut mask = vec![false; tokens.len()];
        for turn in turns {
            let inside = |i: &usize| turn.contains(&tokens[*i].place.start) && tokens[*i].place.end > turn.start;
            let said: Vec<usize> = (0..tokens.len()).filter(inside).collect();
            // What follows the end-of-turn token, a line break in SmolLM2's template, is never generated.
            let end = said.iter().rposition(|&i| self.is_special(tokens[i].id)).filter(|&last| {
                whole.get(tokens[said[last]].place.end..turn.end).is_some_and(|rest| rest.trim().is_empty())
            });
            said[..end.map_or(said.len(), |last| last + 1)].iter().for_each(|&i| mask[i] = true);
        }
        Ok((tokens.into_iter().map(|token| token.id).collect(), mask))
    }

    /// The tokens of `text`, which is cut at `cuts` before it is encoded.
    fn encode_pieces(&self, text: &str, cuts: &[usize]) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let mut start = 0;
        for &end in cuts.iter().chain([&text.len()]) {
            let encoding = self.inner.encode(&text[start..end], false).map_err(|error| self.error(error))?;
            let places = encoding.get_offsets().iter().map(|(from, to)| start + from..start + to);
            tokens.extend(encoding.get_ids().iter().zip(places).map(|(&id, place)| Token { id, place }));
            start = end;
        }
        Ok(tokens)
    }
}

/// A token and where it lies in the text, in bytes.
struct Token {
    id: u32,
    place: Range<usize>,
}

/// Where each assistant turn lies in `whole`, in bytes, from the end of its header to the end of the turn.
fn assistant_turns(template: &ChatTemplate, conversation: &Conversation, whole: &str) -> Result<Vec<Range<usize>>> {
    let messages = &conversation.messages;
    let part = |end: usize| Conversation { messages: messages[..end].to_vec(), ..conversation.clone() };
    let mut turns = Vec::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.role() == "assistant") {
        let fail = |what: &str, got: &str| {
            let message = format!(
                "cannot tell which tokens are the assistant's in message {} of {} ({:?}...): the template renders the \
                 conversation {what} as {:?}, which is not how the whole conversation begins",
                i + 1,
                messages.len(),
                message.content().chars().take(40).collect::<String>(),
                excerpt(got, whole),
            );
            Err(LlamaError::Template { message })
        };
        let before = template.render(&part(i), true)?;
        if !whole.starts_with(&before) {
            return fail("before it, with the generation prompt,", &before);
        }
        let after = template.render(&part(i + 1), false)?;
        if !whole.starts_with(&after) || after.len() < before.len() {
            return fail("up to its end", &after);
        }
        turns.push(before.len()..after.len());
    }
    Ok(turns)
}

/// The place where `text` leaves `whole`.
fn excerpt(text: &str, whole: &str) -> String {
    let same = text.chars().zip(whole.chars()).take_while(|(a, b)| a == b).count();
    text.chars().skip(same.saturating_sub(20)).take(60).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::text::message::Message;

    const SMOLLM2: &str = include_str!("../../../tests/fixtures/templates/smollm2.jinja");
    const LLAMA3: &str = include_str!("../../../tests/fixtures/templates/llama-3.jinja");

    fn tokenizer() -> Tokenizer {
        let json = include_bytes!("../../../tests/fixtures/tokenizer/tokenizer.json");
        Tokenizer::from_bytes(json, Some(include_bytes!("../../../tests/fixtures/tokenizer/tokenizer_config.json")))
            .unwrap()
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, tokenizer().special_tokens()).unwrap()
    }

    #[test]
    fn ids_and_assistant_tokens_are_those_of_transformers() {
        let tokenizer = tokenizer();
        let cases: Value = serde_json::from_str(include_str!("../../../tests/fixtures/chat.json")).unwrap();
        for case in cases["masks"].as_array().unwrap() {
            let source = if case["template"] == "smollm2" { SMOLLM2 } else { LLAMA3 };
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let (ids, mask) = tokenizer.encode_chat(&template(source), &messages.clone().into()).unwrap();
            assert_eq!(json!(ids), case["ids"], "{}", case["messages"]);
            assert_eq!(json!(mask), case["mask"], "{}", case["messages"]);
        }
    }

    #[test]
    fn the_mask_holds_what_the_assistant_says_and_its_end_of_turn() {
        let tokenizer = tokenizer();
        let say = |role: &str, content: &str| Message::new(role, content);
        let messages =
            vec![say("user", "hi"), say("assistant", "warm\n"), say("user", "and?"), say("assistant", "sunny")];
        for (source, expected) in
            [(SMOLLM2, "warm\n<|im_end|>sunny<|im_end|>"), (LLAMA3, "warm<|eot_id|>sunny<|eot_id|>")]
        {
            let (ids, mask) = tokenizer.encode_chat(&template(source), &messages.clone().into()).unwrap();
            let said: Vec<u32> = ids.iter().zip(&mask).filter(|(_, inside)| **inside).map(|(id, _)| *id).collect();
            assert_eq!(tokenizer.decode(&said, false).unwrap(), expected);
        }
    }

    #[test]
    fn a_turn_is_encoded_apart_from_a_header_that_a_token_would_reach_over() {
        let tokenizer = tokenizer();
        let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
        let template = template(source);
        let messages = vec![Message::new("user", "hi"), Message::new("assistant", "the weather")];
        let (ids, mask) = tokenizer.encode_chat(&template, &messages.clone().into()).unwrap();
        let header = tokenizer
            .encode(&template.render(&Conversation::new(messages[..1].to_vec()), true).unwrap(), false)
            .unwrap();
        let turn = tokenizer.encode("the weather\n", false).unwrap();
        assert_eq!(ids, [header.clone(), turn].concat());
        // A template without an end-of-turn token has the white space for one.
        let expected: Vec<bool> = (0..ids.len()).map(|i| i >= header.len()).collect();
        assert_eq!(mask, expected);
    }

    #[test]
    fn turns_that_cannot_be_told_apart_are_an_error() {
        let tokenizer = tokenizer();
        let messages =
            vec![Message::new("user", "hi"), Message::new("assistant", "warm"), Message::new("user", "thanks")];
        // The generation prompt is not how the turn begins.
        let thinking = template(
            "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}assistant<think>{% endif %}",
        );
        let error = tokenizer.encode_chat(&thinking, &messages.clone().into()).unwrap_err().to_string();
        assert!(error.contains("message 2 of 3 (\"warm\"...)"), "{error}");
        assert!(error.contains("with the generation prompt, as \"userhiassistant<think>\""), "{error}");
        // The last turn of a conversation is rendered otherwise than the same turn inside it.
        let last = template(
            "{% for m in messages %}{{ m.role }}{{ m.content }}{% if loop.last %}.{% endif %}{% endfor %}{% if add_generation_prompt %}{% endif %}",
        );
        let error = tokenizer.encode_chat(&last, &messages.clone().into()).unwrap_err().to_string();
        assert!(error.contains("not how the whole conversation begins"), "{error}");
    }
}
