//! Where the turns of a conversation lie in its text, whatever its template does.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ChatTemplate;
use super::render::Rendered;
use crate::error::{Result, TemplateError};
use crate::text::message::Conversation;
use crate::text::tokenizer::{Token, Tokenizer};

/// The turns of one conversation.
pub(super) struct Turns<'a> {
    pub template: &'a ChatTemplate,
    pub conversation: &'a Conversation,
    pub tokenizer: &'a Tokenizer,
    pub whole: &'a Rendered,
}

impl Turns<'_> {
    fn is_assistant(&self, message: usize) -> bool {
        self.conversation.messages[message].role() == "assistant"
    }

    /// Assistant messages that are learned.
    fn learned(&self) -> impl Iterator<Item = usize> {
        let learned = |at: &usize| self.is_assistant(*at) && !self.conversation.not_learned.contains(at);
        (0..self.conversation.messages.len()).filter(learned)
    }

    /// The spans that the template marks, without those in messages that are not learned.
    pub fn marked(&self) -> Result<Vec<Range<usize>>> {
        let blocks = self.whole.generation.clone();
        let not_learned = &self.conversation.not_learned;
        if not_learned.is_empty() {
            return Ok(blocks);
        }
        let assistants: Vec<usize> =
            (0..self.conversation.messages.len()).filter(|&at| self.is_assistant(at)).collect();
        if assistants.len() == blocks.len() {
            let learned = blocks.into_iter().zip(assistants).filter(|(_, at)| !not_learned.contains(at));
            return Ok(learned.map(|(block, _)| block).collect());
        }
        let places = self.whole.places(self.conversation.messages.len(), |at| self.is_assistant(at));
        let places = places.ok_or_else(|| TemplateError::Turns {
            message:
                "cannot tell which message each {% generation %} block belongs to, and some messages are not to be \
                      learned; write the messages in a loop over `messages`"
                    .to_string(),
        })?;
        let silent = |block: &Range<usize>| {
            not_learned.iter().any(|at| matches!(places.get(*at), Some(Some(place)) if place.contains(&block.start)))
        };
        Ok(blocks.into_iter().filter(|block| !silent(block)).collect())
    }

    /// Where the learned turns lie without their headers, from the loop that writes them; `None` where no loop does.
    pub fn by_loop(&self, tokens: &[Token]) -> Result<Option<Vec<Range<usize>>>> {
        let messages = self.conversation.messages.len();
        let Some(places) = self.whole.places(messages, |at| self.is_assistant(at)) else { return Ok(None) };
        let last = places.iter().rposition(Option::is_some);
        let mut headers: BTreeMap<&str, String> = BTreeMap::new();
        let mut turns = Vec::new();
        for at in self.learned() {
            let Some(place) = places[at].clone().filter(|place| !place.is_empty()) else { continue };
            // Text behind the loop may end the last turn.
            let end = if last == Some(at) { self.whole.text.len() } else { place.end };
            let before = at.checked_sub(1).map_or("", |before| self.conversation.messages[before].role());
            if !headers.contains_key(before) {
                headers.insert(before, self.generation_prompt(at)?);
                self.check_header(&headers[before], at)?;
            }
            let header = &headers[before];
            let start = self.after_header(header, place.start..end, tokens)?;
            match self.answers_after(at, &places) {
                Some(answers) => turns.extend(self.around_answers(at, answers, start..end)?),
                None => turns.push(start..end),
            }
        }
        Ok(Some(turns))
    }

    /// The answers of tools right after message `at`, where none of them is written in its own turn: the template writes them
    /// into the assistant's.
    fn answers_after(&self, at: usize, places: &[Option<Range<usize>>]) -> Option<Range<usize>> {
        let messages = &self.conversation.messages;
        let count = messages[at + 1..].iter().take_while(|message| message.role() == "tool").count();
        let answers = at + 1..at + 1 + count;
        let written = |at: usize| places[at].as_ref().is_some_and(|place| !place.is_empty());
        (count > 0 && !answers.clone().any(written)).then_some(answers)
    }

    /// The parts of the turn `place` of message `at` that the assistant says, round the answers of tools in it: the text before
    /// them, and its own text behind them.
    fn around_answers(&self, at: usize, answers: Range<usize>, place: Range<usize>) -> Result<Vec<Range<usize>>> {
        let whole = &self.whole.text;
        let without = self.template.render(&self.part(at + 1), false)?;
        let alike = whole.chars().zip(without.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let before = place.start..place.end.min(alike).max(place.start);
        let messages = &self.conversation.messages;
        let rest = &whole[before.end..place.end];
        let last = answers.map(|at| messages[at].content()).filter(|answer| !answer.is_empty());
        let last = last.filter_map(|answer| rest.rfind(answer).map(|found| found + answer.len()));
        let behind = before.end + last.max().unwrap_or(0);
        let own = messages[at].content().trim();
        let found = if own.is_empty() { None } else { whole[behind..place.end].rfind(own) };
        let behind = found.map(|found| behind + found..place.end);
        Ok([Some(before), behind].into_iter().flatten().collect())
    }

    /// The text that the template adds for the assistant to go on with, at message `at`: it begins the assistant's turn
    /// there.
    fn generation_prompt(&self, at: usize) -> Result<String> {
        // Templates may refuse a conversation without a message, and one that ends too early.
        let part = self.part(if at == 0 { self.conversation.messages.len() } else { at });
        let with = self.template.rendered(&part, true)?;
        let without = self.template.rendered(&part, false)?;
        let added = match with.text.strip_prefix(&without.text) {
            Some(added) => added,
            // Without a generation prompt this template ends the text.
            None => with.end_of_loop().and_then(|end| with.text.get(end..)).unwrap_or_default(),
        };
        Ok(added.to_string())
    }

    /// Refuses a template without a generation prompt, `header`, that writes one all the same: it would be learned.
    fn check_header(&self, header: &str, at: usize) -> Result<()> {
        let written = if header.is_empty() { self.template.header_without_prompt(&self.part(at)) } else { None };
        written.map_or(Ok(()), |header| Err(TemplateError::Header { header }.into()))
    }

    /// Where the turn at `place` begins behind its header. Of a generation prompt that the turn does not begin with (one
    /// that opens `<think>`), only the tokens count that both begin with.
    fn after_header(&self, header: &str, place: Range<usize>, tokens: &[Token]) -> Result<usize> {
        let turn = &self.whole.text[place.clone()];
        let lead = turn.len() - turn.trim_start().len();
        for skipped in [0, lead] {
            if turn[skipped..].starts_with(header) {
                return Ok(place.start + if header.is_empty() { 0 } else { skipped + header.len() });
            }
        }
        let alike = turn.bytes().zip(header.bytes()).take_while(|(a, b)| a == b).count();
        let header = self.tokenizer.tokens(header)?;
        let first = tokens.partition_point(|token| token.place.start < place.start);
        let same =
            header.iter().zip(&tokens[first..]).take_while(|(a, b)| a.id == b.id && b.place.end <= place.start + alike);
        Ok(same.last().map_or(place.start, |(_, token)| token.place.end))
    }

    /// Where the learned turns lie, by rendering the conversation up to each turn and up to its end.
    pub fn by_prefixes(&self) -> Result<Vec<Range<usize>>> {
        let whole = &self.whole.text;
        let messages = &self.conversation.messages;
        let mut turns = Vec::new();
        for at in self.learned() {
            let fail = |what: &str, got: &str| {
                let message = format!(
                    "cannot tell which tokens are the assistant's in message {} of {} ({:?}...): the template renders the \
                     conversation {what} as {:?}, which is not how the whole conversation begins; mark what the assistant \
                     says with {{% generation %}} and {{% endgeneration %}}",
                    at + 1,
                    messages.len(),
                    messages[at].content().chars().take(40).collect::<String>(),
                    excerpt(got, whole),
                );
                Err(TemplateError::Turns { message }.into())
            };
            let before = match at {
                0 => match self.generation_prompt(0)? {
                    header if header.is_empty() => return fail("before it", ""),
                    header => match whole.find(&header) {
                        Some(start) => whole[..start + header.len()].to_string(),
                        None => return fail("with the generation prompt", &header),
                    },
                },
                _ => {
                    self.check_header(&self.generation_prompt(at)?, at)?;
                    self.template.render(&self.part(at), true)?
                }
            };
            if !whole.starts_with(&before) {
                return fail("before it, with the generation prompt,", &before);
            }
            let after = self.template.render(&self.part(at + 1), false)?;
            if !whole.starts_with(&after) || after.len() < before.len() {
                return fail("up to its end", &after);
            }
            turns.push(before.len()..after.len());
        }
        Ok(turns)
    }

    /// The first `end` messages.
    fn part(&self, end: usize) -> Conversation {
        Conversation {
            messages: self.conversation.messages[..end].to_vec(),
            ..self.conversation.clone_without_messages()
        }
    }
}

/// The place where `text` leaves `whole`.
fn excerpt(text: &str, whole: &str) -> String {
    let same = text.chars().zip(whole.chars()).take_while(|(a, b)| a == b).count();
    text.chars().skip(same.saturating_sub(20)).take(60).collect()
}
