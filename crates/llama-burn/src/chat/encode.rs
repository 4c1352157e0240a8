//! A conversation as token ids, with the tokens that training is to learn from.

use std::ops::Range;

use super::{ChatTemplate, Message};
use crate::error::{LlamaError, Result};
use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// The ids of a conversation, and which of them belong to assistant turns: what the assistant says and the token
    /// that ends its turn, but not the header before nor the white space after.
    ///
    /// The ids are those of the whole rendered text, as `apply_chat_template(tokenize=True)` of transformers gives
    /// them. Where a turn lies in it is found by rendering the conversation up to the turn (with the generation
    /// prompt) and up to its end. A token that reaches from the header into the turn is not the assistant's.
    ///
    /// # Errors
    /// [`LlamaError::Template`] where the template refuses the conversation, or renders a part of it otherwise than
    /// in the whole, so that turns cannot be told apart; [`LlamaError::Tokenizer`].
    pub fn encode_chat(&self, template: &ChatTemplate, messages: &[Message]) -> Result<(Vec<u32>, Vec<bool>)> {
        let whole = template.render(messages, false)?;
        let turns = assistant_turns(template, messages, &whole)?;
        let encoding = self.inner.encode(whole.as_str(), false).map_err(|error| self.error(error))?;
        let (ids, offsets) = (encoding.get_ids().to_vec(), encoding.get_offsets());
        let mut mask = vec![false; ids.len()];
        for turn in turns {
            let inside =
                |i: &usize| offsets[*i].0 >= turn.start && offsets[*i].0 < turn.end && offsets[*i].1 > turn.start;
            let tokens: Vec<usize> = (0..ids.len()).filter(inside).collect();
            // What follows the end-of-turn token, a line break in SmolLM2's template, is never generated.
            let last = tokens.iter().rposition(|&i| self.is_special(ids[i]));
            let only_space = |i: usize| whole.get(offsets[i].1..turn.end).is_some_and(|rest| rest.trim().is_empty());
            let kept = last.filter(|&last| only_space(tokens[last])).map_or(tokens.len(), |last| last + 1);
            tokens[..kept].iter().for_each(|&i| mask[i] = true);
        }
        Ok((ids, mask))
    }
}

/// Where each assistant turn lies in `whole`, in bytes, from the end of its header to the end of the turn.
fn assistant_turns(template: &ChatTemplate, messages: &[Message], whole: &str) -> Result<Vec<Range<usize>>> {
    let mut turns = Vec::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
        let fail = |what: &str, got: &str| {
            let message = format!(
                "cannot tell which tokens are the assistant's in message {} of {} ({:?}...): the template renders the \
                 conversation {what} as {:?}, which is not how the whole conversation begins",
                i + 1,
                messages.len(),
                message.content.chars().take(40).collect::<String>(),
                excerpt(got, whole),
            );
            Err(LlamaError::Template { message })
        };
        let before = template.render(&messages[..i], true)?;
        if !whole.starts_with(&before) {
            return fail("before it, with the generation prompt,", &before);
        }
        let after = template.render(&messages[..=i], false)?;
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
