//! A conversation as token ids, with the tokens that training is to learn from.

use std::ops::Range;

use super::ChatTemplate;
use super::turns::Turns;
use crate::error::Result;
use crate::text::message::Conversation;
use crate::text::stop::StopTokens;
use crate::text::tokenizer::{Token, Tokenizer};

impl ChatTemplate {
    /// The ids of a conversation, and which of them the assistant says.
    ///
    /// The ids are those of the whole text, as `apply_chat_template(tokenize=True)` of Transformers gives them. Where the
    /// template marks what is generated (`{% generation %}`), the mask is that of `return_assistant_tokens_mask`.
    /// Otherwise it is found from the turns: an assistant's turn begins where the generation prompt ends and ends with
    /// the token that ends a turn; white space after that is not learned. A token that reaches from the header into the
    /// turn belongs to the turn, as in TRL 1.16.
    ///
    /// # Errors
    /// [`LlamaError::Template`](crate::LlamaError::Template) where the template refuses the conversation, or renders it so
    /// that turns cannot be told apart; [`LlamaError::Tokenizer`](crate::LlamaError::Tokenizer).
    pub(crate) fn encode(
        &self,
        conversation: &Conversation,
        tokenizer: &Tokenizer,
        stop: &StopTokens,
    ) -> Result<(Vec<u32>, Vec<bool>)> {
        let whole = self.rendered(conversation, false)?;
        let tokens = tokenizer.tokens(&whole.text)?;
        let turns = Turns { template: self, conversation, tokenizer, whole: &whole };
        let mut mask = vec![false; tokens.len()];
        if self.marks(conversation)? {
            for place in turns.marked()? {
                mask[inside(&tokens, &place)].fill(true);
            }
        } else {
            let places = if whole.looked_ahead { None } else { turns.by_loop(&tokens)? };
            let places = match places {
                Some(places) => places,
                None => turns.by_prefixes()?,
            };
            for place in places {
                let said = inside(&tokens, &place);
                let end = end_of_turn(&tokens[said.clone()], tokenizer, stop);
                mask[said.start..said.start + end].fill(true);
            }
        }
        Ok((tokens.into_iter().map(|token| token.id).collect(), mask))
    }
}

/// The tokens that lie in `place`, the ones that reach over its borders included.
fn inside(tokens: &[Token], place: &Range<usize>) -> Range<usize> {
    let start = tokens.partition_point(|token| token.place.end <= place.start);
    let end = tokens.partition_point(|token| token.place.start < place.end);
    start..end.max(start)
}

/// How many of a turn's tokens the assistant says: up to the token that ends the turn. What follows it, a line break or
/// the end of the whole text, is never generated.
fn end_of_turn(tokens: &[Token], tokenizer: &Tokenizer, stop: &StopTokens) -> usize {
    let closing = |token: &Token| token.blank || stop.contains(token.id) || tokenizer.is_special(token.id);
    let tail = tokens.len() - tokens.iter().rev().take_while(|token| closing(token)).count();
    let ends = tokens[tail..].iter().position(|token| stop.contains(token.id));
    let ends = ends.or_else(|| tokens[tail..].iter().rposition(|token| tokenizer.is_special(token.id)));
    ends.map_or(tokens.len(), |at| tail + at + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::text::Text;
    use crate::text::message::Message;

    const SMOLLM2: &str = include_str!("../../../tests/fixtures/templates/smollm2.jinja");
    const LLAMA3: &str = include_str!("../../../tests/fixtures/templates/llama-3.jinja");

    fn tokenizer() -> Tokenizer {
        let json = include_bytes!("../../../tests/fixtures/tokenizer/tokenizer.json");
        Tokenizer::from_bytes(json, Some(include_bytes!("../../../tests/fixtures/tokenizer/tokenizer_config.json")))
            .unwrap()
    }

    fn encode(template: &ChatTemplate, messages: Vec<Message>) -> Result<(Vec<u32>, Vec<bool>)> {
        template.encode(&messages.into(), &tokenizer(), &StopTokens::default())
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, tokenizer().special_tokens()).unwrap()
    }

    #[test]
    fn ids_and_assistant_tokens_are_those_of_transformers() {
        let cases: Value = serde_json::from_str(include_str!("../../../tests/fixtures/chat.json")).unwrap();
        for case in cases["masks"].as_array().unwrap() {
            let source = if case["template"] == "smollm2" { SMOLLM2 } else { LLAMA3 };
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let (ids, mask) = encode(&template(source), messages.clone()).unwrap();
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
            let (ids, mask) = encode(&template(source), messages.clone()).unwrap();
            let said: Vec<u32> = ids.iter().zip(&mask).filter(|(_, inside)| **inside).map(|(id, _)| *id).collect();
            assert_eq!(tokenizer.decode(&said, false).unwrap(), expected);
        }
    }

    /// The text that is learned.
    fn said(source: &str, messages: Vec<Message>) -> String {
        let (ids, mask) = encode(&template(source), messages).unwrap();
        let said: Vec<u32> = ids.iter().zip(&mask).filter(|(_, inside)| **inside).map(|(id, _)| *id).collect();
        tokenizer().decode(&said, false).unwrap()
    }

    fn talk(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
    }

    #[test]
    fn a_token_that_reaches_over_the_border_belongs_to_the_turn() {
        let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
        let messages = talk(&[("user", "hi"), ("assistant", "the weather")]);
        let (ids, _) = encode(&template(source), messages.clone()).unwrap();
        let whole = template(source).render(&messages.clone().into(), false).unwrap();
        assert_eq!(ids, tokenizer().encode(&whole, false).unwrap());
        // A template without an end-of-turn token has the white space for one.
        assert_eq!(said(source, messages), " the weather\n");
    }

    const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn turns_are_told_apart_whatever_the_template_does() {
        let chat = [("user", "hi"), ("assistant", "<b>warm"), ("user", "and?"), ("assistant", "sunny")];
        let expected = "<b>warm<|im_end|>sunny<|im_end|>";
        let thinks = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}");
        assert_eq!(
            said(&thinks, talk(&chat)),
            expected.replace("<b>", "b>"),
            "of `<think>` and `<b>` both begin with `<`"
        );
        let sliced = CHATML.replace("in messages", "in messages[1:]");
        assert_eq!(said(&sliced, talk(&chat)), expected);
        let collected = format!("{{% set text %}}{CHATML}{{% endset %}}{{{{ text }}}}");
        assert_eq!(said(&collected, talk(&chat)), expected);
        let closed = format!("{CHATML}{{% if not add_generation_prompt %}}{{{{ '<|end_of_text|>' }}}}{{% endif %}}");
        assert_eq!(said(&closed, talk(&chat)), expected.to_owned() + "\n<|end_of_text|>");
        let inside = CHATML.replace("{% endfor %}{% if", "{% if loop.last and").replacen(
            "{% endif %}",
            "{% endif %}{% endfor %}",
            1,
        );
        assert_eq!(said(&inside, talk(&chat)), expected);
        let stripped = CHATML.replace("m.content", "(m.content if loop.last else m.content.split('>')[-1])");
        assert_eq!(said(&stripped, talk(&chat)), "warm<|im_end|>sunny<|im_end|>");
        let ahead = CHATML.replace("{% endfor %}", "{% if loop.nextitem %}{% endif %}{% endfor %}");
        assert_eq!(said(&ahead, talk(&chat)), expected);
    }

    #[test]
    fn a_conversation_may_begin_with_the_assistant() {
        let strict = format!("{{% if messages[0].role == 'system' %}}{{% endif %}}{CHATML}");
        assert_eq!(said(&strict, talk(&[("assistant", "hello"), ("user", "hi")])), "hello<|im_end|>");
        assert_eq!(said(&strict, talk(&[("assistant", "hello")])), "hello<|im_end|>");
        let collected = format!("{{% set text %}}{CHATML}{{% endset %}}{{{{ text }}}}");
        assert_eq!(said(&collected, talk(&[("assistant", "hello"), ("user", "hi")])), "hello<|im_end|>");
    }

    #[test]
    fn generation_tags_mark_what_is_learned_wherever_they_stand() {
        let said_by = "{{ 'NOTE\n' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}";
        let source = format!(
            "{{% for m in messages %}}{{{{ '<|im_start|>' + m.role + '\n' }}}}{{% if m.role == 'assistant' %}}{said_by}{{% else %}}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}"
        );
        let chat = [("user", "hi"), ("assistant", "warm"), ("user", "and?"), ("assistant", "sunny")];
        assert_eq!(said(&source, talk(&chat)), "warm<|im_end|>sunny<|im_end|>");
        let part = Conversation { not_learned: [1].into(), ..talk(&chat).into() };
        for source in [source.clone(), source.replace("{{ 'NOTE\n' }}", "{% generation %}NOTE\n{% endgeneration %}")] {
            let (ids, mask) = template(&source).encode(&part, &tokenizer(), &StopTokens::default()).unwrap();
            let learned: Vec<u32> = ids.iter().zip(&mask).filter(|(_, on)| **on).map(|(id, _)| *id).collect();
            assert!(tokenizer().decode(&learned, false).unwrap().ends_with("sunny<|im_end|>"));
            assert!(!tokenizer().decode(&learned, false).unwrap().contains("warm"));
        }
        let inside_set = format!("{{% set text %}}{source}{{% endset %}}BEGIN {{{{ text }}}}");
        assert_eq!(said(&inside_set, talk(&chat)), "warm<|im_end|>sunny<|im_end|>");
        let inside_macro = format!("{{% macro all() %}}{source}{{% endmacro %}}BEGIN {{{{ all() }}}}");
        assert_eq!(said(&inside_macro, talk(&chat)), "warm<|im_end|>sunny<|im_end|>");
    }

    #[test]
    fn a_header_that_no_generation_prompt_gives_is_not_learned_silently() {
        let (without, _) = CHATML.split_once("{% if add_generation_prompt %}").unwrap();
        let chat = [("user", "hi"), ("assistant", "warm"), ("user", "and?"), ("assistant", "sunny")];
        let collected = format!("{{% set text %}}{without}{{% endset %}}{{{{ text }}}}");
        for source in [without, collected.as_str()] {
            let error = encode(&template(source), talk(&chat)).unwrap_err().to_string();
            assert!(
                error.contains(r#"the template writes "<|im_start|>assistant\n" before what the assistant says"#),
                "{error}"
            );
            assert!(error.contains("add_generation_prompt"), "{error}");
        }
        let said_by = "{{ bos_token if loop.first }}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + '<|im_end|>' }}";
        let llama2 = format!("{{% for m in messages %}}{said_by}{{% endfor %}}");
        assert_eq!(said(&llama2, talk(&chat)), " warm<|im_end|> sunny<|im_end|>");
        assert_eq!(said(&llama2, talk(&chat[1..])), "<|begin_of_text|> warm<|im_end|> sunny<|im_end|>");
        let text = |source: &str| Text {
            tokenizer: tokenizer(),
            template: Some(template(source)),
            stop: StopTokens::default(),
        };
        let completion =
            |source: &str| text(source).encode_chat_completion(&talk(&chat[..1]).into(), &talk(&chat[1..2])).unwrap();
        assert_eq!(completion(without).learned_header.as_deref(), Some("<|im_start|>assistant\n"));
        assert_eq!([CHATML, &llama2].map(|source| completion(source).learned_header), [None, None]);
        let whole = text(without).encode_whole_chat(&talk(&chat).into()).unwrap();
        assert!(whole.targets.iter().all(|learned| *learned) && whole.learned_header.is_none());
    }

    #[test]
    fn messages_that_are_not_learned_are_context() {
        let chat = [("user", "hi"), ("assistant", "warm"), ("user", "and?"), ("assistant", "sunny")];
        let part = Conversation { not_learned: [1].into(), ..talk(&chat).into() };
        let (ids, mask) = template(CHATML).encode(&part, &tokenizer(), &StopTokens::default()).unwrap();
        let learned: Vec<u32> = ids.iter().zip(&mask).filter(|(_, on)| **on).map(|(id, _)| *id).collect();
        assert_eq!(tokenizer().decode(&learned, false).unwrap(), "sunny<|im_end|>");
    }

    #[test]
    fn turns_that_cannot_be_told_apart_are_an_error() {
        // Nothing tells where a message begins, and the last one is written otherwise than the same one inside.
        let source = "{% set text %}{% for m in messages %}{{ m.role }}{{ m.content }}{% if loop.last %}.{% endif %}{% endfor %}\
                      {% endset %}{{ text }}";
        let messages = talk(&[("user", "hi"), ("assistant", "warm"), ("user", "thanks")]);
        let error = encode(&template(source), messages).unwrap_err().to_string();
        assert!(error.contains("message 2 of 3 (\"warm\"...)"), "{error}");
        assert!(error.contains("not how the whole conversation begins; mark what the assistant says"), "{error}");
    }

    #[test]
    fn many_turns_take_no_longer_than_their_tokens() {
        let time = |turns: usize| {
            let chat: Vec<Message> = (0..turns)
                .map(|at| {
                    Message::new(if at % 2 == 0 { "user" } else { "assistant" }, "what is the weather like today?")
                })
                .collect();
            let started = std::time::Instant::now();
            let (ids, mask) = encode(&template(CHATML), chat).unwrap();
            assert!(mask.iter().filter(|on| **on).count() * 4 > ids.len());
            started.elapsed()
        };
        // One conversation of 1,600 turns against 16 of 100.
        time(100);
        let many: std::time::Duration = (0..16).map(|_| time(100)).sum();
        let one = time(1600);
        assert!(one < many * 2, "{one:?} against {many:?}");
    }
}
