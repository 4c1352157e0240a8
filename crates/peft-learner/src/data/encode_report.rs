//! The report on the rows of a data set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

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
    /// The header that the template writes before the words of the assistant in some row, where it is learned as part of the completion.
    #[serde(default)]
    pub learned_header: Option<String>,
    /// Rows in which a token that ends a text is learned.
    pub teaching_stop: usize,
    /// Rows whose tool calls have arguments as JSON text, which the template puts into quotes.
    pub quoted_arguments: usize,
    /// Instruction rows that were put into Alpaca's words.
    pub instructions_in_words: usize,
    /// Instruction rows that are chats.
    pub instructions_as_chats: usize,
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
        warnings.extend(self.two_kinds_of_instructions(self));
        if self.quoted_arguments > 0 {
            warnings.push(format!(
                "in {} rows the arguments of a tool call are JSON text, which the chat template writes in quotes (as in \
                 Transformers); give them as an object",
                self.quoted_arguments
            ));
        }
        warnings
    }

    /// A note about instructions that are chats in one of the two and in Alpaca's words in the other.
    pub fn two_kinds_of_instructions(&self, other: &Self) -> Option<String> {
        let words = self.instructions_in_words.max(other.instructions_in_words);
        let chats = self.instructions_as_chats.max(other.instructions_as_chats);
        (words > 0 && chats > 0).then(|| {
            format!(
                "{words} instruction rows are put into Alpaca's words and {chats} are chats, for their file has `system`, `history` or \
                 `tools`; to make all of them chats, give one row of each other file `\"system\": null`"
            )
        })
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
        self.instructions_in_words += other.instructions_in_words;
        self.instructions_as_chats += other.instructions_as_chats;
        self.not_kept = self.not_kept.take().or_else(|| other.not_kept.clone());
        self.renamed
            .extend(other.renamed.iter().filter(|name| !self.renamed.contains(*name)).cloned().collect::<Vec<_>>());
        for (key, rows) in &other.ignored_keys {
            *self.ignored_keys.entry(key.clone()).or_default() += rows;
        }
    }
}
