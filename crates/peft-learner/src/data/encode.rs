//! Rows to token ids and labels.

use std::error::Error;

use llama_burn::{Conversation, Encoded, Message};

use super::encode_report::EncodeReport;
use super::rows::{Parsed, Row, RowOptions};
use super::{Example, IGNORE_INDEX};
use crate::error::Problems;

/// Why a text could not be turned into tokens.
pub type EncodeError = Box<dyn Error + Send + Sync>;

/// A tokenizer with its chat template, as encoding needs it.
pub trait TextEncoder: Sync {
    /// A text, all of it learned.
    fn encode_text(&self, text: &str) -> Result<Encoded, EncodeError>;

    /// A prompt and its completion, which is learned.
    fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Encoded, EncodeError>;

    /// A chat through the model's template, of which the assistant's turns are learned.
    fn encode_chat(&self, chat: &Conversation) -> Result<Encoded, EncodeError>;

    /// A chat through the model's template, all of it learned. Turns need not be told apart for that.
    fn encode_whole_chat(&self, chat: &Conversation) -> Result<Encoded, EncodeError> {
        let mut encoded = self.encode_chat(chat)?;
        encoded.targets.fill(true);
        Ok(encoded)
    }

    /// A chat through the model's template, of which all that follows the prompt is learned.
    fn encode_chat_completion(&self, prompt: &Conversation, completion: &[Message]) -> Result<Encoded, EncodeError>;

    /// A text by itself, without anything added to it (axolotl's segments).
    fn encode_segment(&self, text: &str) -> Result<Vec<u32>, EncodeError>;

    /// Whether the chat template has a word, such as a key of messages; one that it does not have changes nothing.
    fn mentions(&self, word: &str) -> bool;

    /// The token of an id, for messages.
    fn token(&self, id: u32) -> Option<String> {
        let _ = id;
        None
    }

    /// A fingerprint of everything that the tokens depend on beside the text: equal ones give equal tokens. Without it tokens
    /// are not kept.
    fn fingerprint(&self) -> Option<String> {
        None
    }
}

/// Bounds of the encoded rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EncodeOptions {
    /// Longer rows are cut on the right, in tokens.
    pub max_length: usize,
    /// Ids are below this.
    pub vocab_size: usize,
}

/// An encoder with its options.
pub(super) struct Encoding<'a> {
    pub encoder: Option<&'a dyn TextEncoder>,
    pub options: EncodeOptions,
    pub rows: &'a RowOptions,
    /// Tokens that end a text.
    pub stop: &'a [u32],
}

/// A row after encoding.
pub(super) struct Outcome {
    /// `None` where nothing in it is learned, with the reason.
    pub example: Result<Example, String>,
    /// Its part of the report.
    pub report: EncodeReport,
}

impl Encoding<'_> {
    /// Encodes a row.
    pub fn encode(&self, parsed: Parsed) -> Result<Outcome, EncodeError> {
        let Parsed { row, unused, quoted_arguments, renamed, instruction } = parsed;
        let mut report = EncodeReport {
            rows: 1,
            ignored_keys: unused.into_iter().map(|key| (key, 1)).collect(),
            quoted_arguments: usize::from(quoted_arguments),
            renamed,
            instructions_in_words: usize::from(instruction == Some(false)),
            instructions_as_chats: usize::from(instruction == Some(true)),
            ..EncodeReport::default()
        };
        let mut example = self.example(&row, &mut report)?;
        self.within_vocabulary(&example, &row)?;
        let (length, targets, max_length) = (example.len(), example.num_targets(), self.options.max_length);
        if length > max_length {
            example.input_ids.truncate(max_length);
            example.labels.truncate(max_length);
            report.truncated = 1;
        }
        let left = example.num_targets();
        if left == 0 {
            report.dropped_without_target = 1;
            return Ok(Outcome { example: Err(why_no_target(length, targets, max_length)), report });
        }
        (report.target_tokens, report.tokens) = (left, example.len());
        let stops = |label: &i32| u32::try_from(*label).is_ok_and(|id| self.stop.contains(&id));
        report.teaching_stop = usize::from(example.labels.iter().skip(1).any(stops));
        Ok(Outcome { example: Ok(example), report })
    }

    fn example(&self, row: &Row, report: &mut EncodeReport) -> Result<Example, EncodeError> {
        let encoder = || self.encoder.ok_or("text needs a tokenizer");
        let (encoded, all) = match row {
            Row::InputIds { input_ids, labels } => {
                let labels = labels.clone().unwrap_or_else(|| input_ids.iter().map(|&id| id as i32).collect());
                return Ok(Example { input_ids: input_ids.clone(), labels });
            }
            Row::Messages(chat) if self.rows.assistant_only_loss => (encoder()?.encode_chat(chat)?, false),
            Row::Messages(chat) => (encoder()?.encode_whole_chat(chat)?, true),
            Row::ChatCompletion { prompt, completion } => {
                (encoder()?.encode_chat_completion(prompt, completion)?, !self.rows.completion_only_loss)
            }
            Row::PromptCompletion { prompt, completion } => {
                (encoder()?.encode_completion(prompt, completion)?, !self.rows.completion_only_loss)
            }
            Row::Text(text) => (encoder()?.encode_text(text)?, false),
            Row::Segments(segments) => {
                let mut encoded = Encoded::default();
                for (text, learned) in segments {
                    let ids = encoder()?.encode_segment(text)?;
                    encoded.targets.resize(encoded.targets.len() + ids.len(), *learned);
                    encoded.ids.extend(ids);
                }
                (encoded, !self.rows.completion_only_loss)
            }
        };
        let Encoded { ids, targets, border_moved, doubled_bos, learned_header } = encoded;
        report.learned_header = learned_header.filter(|_| !all);
        (report.border_moved, report.doubled_bos) = (usize::from(border_moved && !all), usize::from(doubled_bos));
        let learned = |at: usize| all || targets.get(at) == Some(&true);
        let label = |(at, &id): (usize, &u32)| if learned(at) { id as i32 } else { IGNORE_INDEX };
        Ok(Example { labels: ids.iter().enumerate().map(label).collect(), input_ids: ids })
    }

    fn within_vocabulary(&self, example: &Example, row: &Row) -> Result<(), EncodeError> {
        let vocab_size = self.options.vocab_size;
        let beyond = |id: i64| id >= vocab_size as i64;
        let id = example.input_ids.iter().map(|&id| i64::from(id)).find(|&id| beyond(id));
        let label = example.labels.iter().map(|&label| i64::from(label)).find(|&label| beyond(label));
        let Some(id) = id.or(label) else { return Ok(()) };
        let token = self.encoder.and_then(|encoder| encoder.token(u32::try_from(id).ok()?));
        let token = token.map(|token| format!(" ({token:?})")).unwrap_or_default();
        let cause = match row {
            Row::InputIds { .. } => "",
            _ => {
                ": take this token out of the row, or resize the model's embedding; or this tokenizer is not the model's"
            }
        };
        Err(format!("token id {id}{token} is outside the model's vocabulary of {vocab_size}{cause}").into())
    }
}

fn why_no_target(length: usize, targets: usize, max_length: usize) -> String {
    match targets {
        0 if length < 2 => format!("the first has {length} tokens, and it takes two to predict one"),
        0 => "the first has only labels that are ignored (-100), or no assistant turn".to_string(),
        _ => format!(
            "the first loses all {targets} of them when its {length} tokens are cut; raise max_length above {max_length}"
        ),
    }
}

/// Adds a problem of a row, whose place is worked out only where it is shown.
pub(super) fn problem_at(problems: &mut Problems, place: impl FnOnce() -> String, problem: &str) {
    let shown = problems.total() < Problems::SHOWN;
    problems.push(if shown { format!("{}: {problem}", place()) } else { String::new() });
}
