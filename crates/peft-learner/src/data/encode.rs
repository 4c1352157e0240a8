//! Rows to token ids and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;

use llama_burn::{Conversation, Encoded, Message};
use serde::{Deserialize, Serialize};

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

    /// A conversation, all of it learned.
    fn encode_whole_chat(&self, chat: &Conversation) -> Result<Encoded, EncodeError> {
        self.encode_chat(chat)
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

/// Counts of a data set that was encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EncodeReport {
    /// Rows of the files.
    pub rows: usize,
    /// Rows cut to `max_length`.
    pub truncated: usize,
    /// Rows left out because nothing in them is learned, or nothing after the cut.
    pub dropped_without_target: usize,
    /// Tokens of the rows that are left.
    pub tokens: usize,
    /// How many of them are learned.
    pub target_tokens: usize,
    /// Keys that nothing reads, those of messages as `messages[].key`, and in how many rows.
    pub ignored_keys: BTreeMap<String, usize>,
    /// Rows in which a token reaches from the prompt into the completion, and is learned as a whole.
    pub border_moved: usize,
    /// Rows that begin with two beginning-of-text tokens.
    pub doubled_bos: usize,
    /// What the template writes before the words of the assistant in some row, where it is learned as part of the completion.
    #[serde(default)]
    pub learned_header: Option<String>,
    /// Rows in which a token that ends a text is learned.
    pub teaching_stop: usize,
    /// Rows whose tool calls have arguments as JSON text, which the template puts into quotes.
    pub quoted_arguments: usize,
    /// Renamed columns that some row has.
    pub renamed: BTreeSet<String>,
    /// Why the tokens are not kept, though they should be.
    #[serde(skip)]
    pub not_kept: Option<String>,
}

impl EncodeReport {
    /// A line about `file` in words.
    pub fn describe(&self, file: impl AsRef<Path>) -> String {
        let Self { rows, truncated, dropped_without_target, tokens, target_tokens, ignored_keys, .. } = self;
        let file = file.as_ref().display();
        let mut text = format!("{file}: {rows} rows, {tokens} tokens, {target_tokens} of them targets");
        if *truncated > 0 {
            text += &format!("; {truncated} rows were longer than max_length and cut");
        }
        if *dropped_without_target > 0 {
            text += &format!("; {dropped_without_target} rows without a target were left out");
        }
        if !ignored_keys.is_empty() {
            let keys: Vec<_> = ignored_keys.iter().map(|(key, rows)| format!("{key} (in {rows} rows)")).collect();
            text += &format!("; not used: {}", keys.join(", "));
        }
        text
    }

    /// Notes for the user about rows to train on.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(reason) = &self.not_kept {
            warnings.push(format!(
                "tokens are not kept for the next start: {reason}; set data.cache to a folder that can be written to, or to false"
            ));
        }
        if self.teaching_stop == 0 {
            warnings.push(
                "no row teaches a token that ends a text, so that the model may not learn to stop; let rows end with one \
                 (`eos_token` of tokenizer_config.json), or raise max_length where they were cut"
                    .to_string(),
            );
        }
        if self.doubled_bos > 0 {
            warnings.push(format!(
                "{} rows begin with two beginning-of-text tokens: the tokenizer adds one by itself; take it out of the rows",
                self.doubled_bos
            ));
        }
        if self.border_moved > 0 {
            warnings.push(format!(
                "in {} rows the tokens of prompt and completion together do not begin with those of the prompt; what follows \
                 the common beginning is learned, as in TRL. Let the prompt end between two tokens, such as before a space",
                self.border_moved
            ));
        }
        if let Some(header) = &self.learned_header {
            warnings.push(format!(
                "the chat template writes {header:?} before what the assistant says, and has no generation prompt: it is learned as \
                 part of the completion, as in TRL, and the model has to write it itself. Let the template write it under \
                 {{% if add_generation_prompt %}} at its end"
            ));
        }
        if self.quoted_arguments > 0 {
            warnings.push(format!(
                "in {} rows the arguments of a tool call are JSON text, which the chat template writes in quotes (as in \
                 Transformers); give them as an object",
                self.quoted_arguments
            ));
        }
        warnings
    }

    /// Adds what another file came to.
    pub(super) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.truncated += other.truncated;
        self.dropped_without_target += other.dropped_without_target;
        self.tokens += other.tokens;
        self.target_tokens += other.target_tokens;
        self.border_moved += other.border_moved;
        self.doubled_bos += other.doubled_bos;
        self.learned_header = self.learned_header.take().or_else(|| other.learned_header.clone());
        self.teaching_stop += other.teaching_stop;
        self.quoted_arguments += other.quoted_arguments;
        self.not_kept = self.not_kept.take().or_else(|| other.not_kept.clone());
        self.renamed
            .extend(other.renamed.iter().filter(|name| !self.renamed.contains(*name)).cloned().collect::<Vec<_>>());
        for (key, rows) in &other.ignored_keys {
            *self.ignored_keys.entry(key.clone()).or_default() += rows;
        }
    }
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
        let Parsed { row, unused, quoted_arguments, renamed } = parsed;
        let mut report = EncodeReport {
            rows: 1,
            ignored_keys: unused.into_iter().map(|key| (key, 1)).collect(),
            quoted_arguments: usize::from(quoted_arguments),
            renamed,
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
