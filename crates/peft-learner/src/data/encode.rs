//! Rows to token ids and labels.

use std::error::Error;
use std::path::Path;

use llama_burn::Encoded;

use super::{ChatMessage, Example, IGNORE_INDEX, Row, RowShape, Rows};
use crate::error::{LearnerError, Problems, Result};

/// Why a text could not be turned into tokens.
pub type EncodeError = Box<dyn Error + Send + Sync>;

/// What encoding needs of a tokenizer and its chat template.
pub trait TextEncoder {
    /// A text, all of it learned.
    fn encode_text(&self, text: &str) -> Result<Encoded, EncodeError>;

    /// A prompt and its completion, which is learned.
    fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Encoded, EncodeError>;

    /// A chat through the model's template, of which the assistant's turns are learned.
    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Encoded, EncodeError>;

    /// The token of an id, for messages.
    fn token(&self, id: u32) -> Option<String> {
        let _ = id;
        None
    }
}

/// Bounds of the encoded rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Longer rows are cut on the right, in tokens.
    pub max_length: usize,
    /// Ids are below this.
    pub vocab_size: usize,
}

/// What encoding a file came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodeReport {
    /// Rows of the file.
    pub rows: usize,
    /// Rows cut to `max_length`.
    pub truncated: usize,
    /// Rows left out because nothing in them is learned, or nothing after the cut.
    pub dropped_without_target: usize,
    /// Tokens of the rows that are left.
    pub tokens: usize,
    /// How many of them are learned.
    pub target_tokens: usize,
    /// Keys that some row has beside those of its shape; they are not used.
    pub ignored_keys: Vec<String>,
}

impl EncodeReport {
    /// A line about `file` in words.
    pub fn describe(&self, file: &Path) -> String {
        let Self { rows, truncated, dropped_without_target, tokens, target_tokens, ignored_keys } = self;
        let mut text = format!("{}: {rows} rows, {tokens} tokens, {target_tokens} of them targets", file.display());
        if *truncated > 0 {
            text += &format!("; {truncated} rows were longer than max_length and cut");
        }
        if *dropped_without_target > 0 {
            text += &format!("; {dropped_without_target} rows without a target were left out");
        }
        if !ignored_keys.is_empty() {
            text += &format!("; not used: {}", ignored_keys.join(", "));
        }
        text
    }
}

/// Encodes all rows of a file. Rows of `input_ids` need no `encoder`.
///
/// # Errors
/// [`LearnerError::NoTokenizer`] for text without an encoder; [`LearnerError::Data`] for rows with ids beyond the
/// vocabulary or that the encoder refuses; [`LearnerError::NoTarget`] where no row has anything to learn.
pub fn encode_rows(
    rows: &Rows,
    encoder: Option<&dyn TextEncoder>,
    options: EncodeOptions,
) -> Result<(Vec<Example>, EncodeReport)> {
    if encoder.is_none() && rows.shape != RowShape::InputIds {
        return Err(LearnerError::NoTokenizer { file: rows.file.clone(), shape: rows.shape.to_string() });
    }
    let ignored_keys = rows.ignored_keys.iter().cloned().collect();
    let mut report = EncodeReport { rows: rows.rows.len(), ignored_keys, ..EncodeReport::default() };
    let (mut examples, mut problems, mut reason) = (Vec::new(), Problems::default(), None);
    for (line, row) in &rows.rows {
        let encoded = encode(row, encoder)
            .and_then(|example| within_vocabulary(&example, row, encoder, options.vocab_size).map(|()| example));
        let mut example = match encoded {
            Ok(example) => example,
            Err(problem) => {
                problems.push(format!("line {line}: {problem}"));
                continue;
            }
        };
        let (length, targets) = (example.len(), example.num_targets());
        if length > options.max_length {
            example.input_ids.truncate(options.max_length);
            example.labels.truncate(options.max_length);
            report.truncated += 1;
        }
        match example.num_targets() {
            0 => {
                report.dropped_without_target += 1;
                reason.get_or_insert_with(|| why_no_target(length, targets, options.max_length));
            }
            left => {
                report.target_tokens += left;
                report.tokens += example.len();
                examples.push(example);
            }
        }
    }
    if !problems.is_empty() {
        return Err(LearnerError::Data { file: rows.file.clone(), problems });
    }
    if examples.is_empty() {
        let line = |row: Option<&(usize, Row)>| row.map_or(0, |(line, _)| *line);
        return Err(LearnerError::NoTarget {
            file: rows.file.clone(),
            first_line: line(rows.rows.first()),
            last_line: line(rows.rows.last()),
            reason: reason.unwrap_or_default(),
        });
    }
    Ok((examples, report))
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

fn encode(row: &Row, encoder: Option<&dyn TextEncoder>) -> Result<Example, EncodeError> {
    let encoder = || encoder.ok_or("text needs a tokenizer");
    match row {
        Row::InputIds { input_ids, labels } => Ok(match labels {
            Some(labels) => Example { input_ids: input_ids.clone(), labels: labels.clone() },
            None => learn_where(input_ids.clone(), |_| true),
        }),
        Row::Messages(messages) => Ok(learned(encoder()?.encode_chat(messages)?)),
        Row::PromptCompletion { prompt, completion } => Ok(learned(encoder()?.encode_completion(prompt, completion)?)),
        Row::Instruction { instruction, input, output } => {
            Ok(learned(encoder()?.encode_completion(&alpaca_prompt(instruction, input.as_deref()), output)?))
        }
        Row::Text(text) => Ok(learned(encoder()?.encode_text(text)?)),
    }
}

fn learned(encoded: Encoded) -> Example {
    encoded.into()
}

fn learn_where(input_ids: Vec<u32>, learned: impl Fn(usize) -> bool) -> Example {
    let label = |(at, &id): (usize, &u32)| if learned(at) { id as i32 } else { IGNORE_INDEX };
    Example { labels: input_ids.iter().enumerate().map(label).collect(), input_ids }
}

/// The prompt of an instruction row, in the words of Stanford Alpaca.
pub fn alpaca_prompt(instruction: &str, input: Option<&str>) -> String {
    match input.filter(|input| !input.is_empty()) {
        Some(input) => format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. \
             Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        ),
        None => format!(
            "Below is an instruction that describes a task. \
             Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:\n"
        ),
    }
}

/// Refuses ids that the model has no embedding for, by their tokens.
fn within_vocabulary(
    example: &Example,
    row: &Row,
    encoder: Option<&dyn TextEncoder>,
    vocab_size: usize,
) -> Result<(), EncodeError> {
    let beyond = |id: i64| id >= vocab_size as i64;
    let id = example.input_ids.iter().map(|&id| i64::from(id)).find(|&id| beyond(id));
    let label = example.labels.iter().map(|&label| i64::from(label)).find(|&label| beyond(label));
    let Some(id) = id.or(label) else { return Ok(()) };
    let token = encoder.and_then(|encoder| encoder.token(u32::try_from(id).ok()?));
    let token = token.map(|token| format!(" ({token:?})")).unwrap_or_default();
    let cause = match row {
        Row::InputIds { .. } => "",
        _ => ": take this token out of the row, or resize the model's embedding; or this tokenizer is not the model's",
    };
    Err(format!("token id {id}{token} is outside the model's vocabulary of {vocab_size}{cause}").into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A token a byte; 1 begins, 2 ends, 3 ends a turn.
    struct Bytes;

    impl TextEncoder for Bytes {
        fn encode_text(&self, text: &str) -> Result<Encoded, EncodeError> {
            self.encode_completion("", text).map(|mut encoded| {
                encoded.targets[0] = true;
                encoded
            })
        }

        fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Encoded, EncodeError> {
            if completion.contains('\0') {
                return Err("a NUL".into());
            }
            let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
            let ids = [vec![1], ids(prompt), ids(completion), vec![2]].concat();
            let targets = (0..ids.len()).map(|at| at > prompt.len()).collect();
            Ok(Encoded { ids, targets, ..Encoded::default() })
        }

        fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Encoded, EncodeError> {
            let tokens = messages.iter().flat_map(|message| {
                let assistant = message.role == "assistant";
                message.content.bytes().map(u32::from).chain([3]).map(move |id| (id, assistant))
            });
            let (ids, targets) = tokens.unzip();
            Ok(Encoded { ids, targets, ..Encoded::default() })
        }
    }

    fn rows(shape: RowShape, rows: Vec<Row>) -> Rows {
        let rows = rows.into_iter().enumerate().map(|(at, row)| (at + 1, row)).collect();
        Rows { file: "rows.jsonl".into(), shape, rows, ignored_keys: Default::default() }
    }

    fn encode_all(list: Vec<Row>, max_length: usize) -> Result<(Vec<Example>, EncodeReport)> {
        let shape = if matches!(list[0], Row::InputIds { .. }) { RowShape::InputIds } else { RowShape::Text };
        encode_rows(&rows(shape, list), Some(&Bytes), EncodeOptions { max_length, vocab_size: 256 })
    }

    fn one(row: Row) -> Example {
        encode_all(vec![row], 1000).unwrap().0.remove(0)
    }

    fn ids(input_ids: &[u32], labels: Option<&[i32]>) -> Row {
        Row::InputIds { input_ids: input_ids.to_vec(), labels: labels.map(<[i32]>::to_vec) }
    }

    fn prompted(prompt: &str, completion: &str) -> Row {
        Row::PromptCompletion { prompt: prompt.into(), completion: completion.into() }
    }

    #[test]
    fn a_completion_and_its_end_are_learned_and_the_prompt_is_not() {
        let example = one(prompted("AB", "CD"));
        assert_eq!(example.input_ids, [1, 65, 66, 67, 68, 2]);
        assert_eq!(example.labels, [-100, -100, -100, 67, 68, 2]);
    }

    #[test]
    fn a_text_is_learned_whole_and_a_chat_where_the_assistant_speaks() {
        let example = one(Row::Text("AB".into()));
        assert_eq!((example.input_ids, example.labels), (vec![1, 65, 66, 2], vec![1, 65, 66, 2]));
        let turn = |role: &str, content: &str| ChatMessage { role: role.into(), content: content.into() };
        let example = one(Row::Messages(vec![turn("user", "A"), turn("assistant", "B"), turn("user", "C")]));
        assert_eq!(example.labels, [-100, -100, 66, 3, -100, -100]);
    }

    #[test]
    fn an_instruction_is_put_in_alpacas_words() {
        let row = |input: Option<&str>| Row::Instruction {
            instruction: "Do".into(),
            input: input.map(str::to_string),
            output: "B".into(),
        };
        let text = |example: &Example| example.input_ids.iter().map(|&id| id as u8 as char).collect::<String>();
        let example = one(row(Some("X")));
        assert!(text(&example).contains("paired with an input that provides further context. Write a response"));
        assert!(text(&example).ends_with("### Instruction:\nDo\n\n### Input:\nX\n\n### Response:\nB\u{2}"));
        assert_eq!(example.num_targets(), 2, "the output and its end");
        let without = one(row(Some("")));
        assert_eq!(without, one(row(None)), "an empty input is none");
        assert!(text(&without).ends_with("request.\n\n### Instruction:\nDo\n\n### Response:\nB\u{2}"));
    }

    #[test]
    fn given_ids_need_no_tokenizer_and_are_not_touched() {
        let rows = rows(RowShape::InputIds, vec![ids(&[7, 8, 9], Some(&[-100, -100, 9])), ids(&[7, 8], None)]);
        let (examples, report) = encode_rows(&rows, None, EncodeOptions { max_length: 8, vocab_size: 10 }).unwrap();
        assert_eq!(examples[0].labels, [-100, -100, 9]);
        assert_eq!(examples[1], Example { input_ids: vec![7, 8], labels: vec![7, 8] });
        assert_eq!((report.rows, report.tokens, report.target_tokens), (2, 5, 2));
    }

    #[test]
    fn long_rows_are_cut_on_the_right_and_counted() {
        let (examples, report) =
            encode_all(vec![prompted("A", "BCDE"), prompted("ABCDEF", "G"), prompted("A", "B")], 4).unwrap();
        assert_eq!(examples.len(), 2, "the second one loses its completion");
        assert_eq!(examples[0].input_ids, [1, 65, 66, 67]);
        let counts =
            (report.rows, report.truncated, report.dropped_without_target, report.tokens, report.target_tokens);
        assert_eq!(counts, (3, 2, 1, 8, 4));
        let text = report.describe(Path::new("a.jsonl"));
        assert!(text.contains("2 rows were longer than max_length and cut; 1 rows without a target"), "{text}");
    }

    #[test]
    fn a_file_without_any_target_is_an_error_that_says_why() {
        let error = |rows, max_length| encode_all(rows, max_length).unwrap_err().to_string();
        let masked = error(vec![ids(&[1, 2], Some(&[1, -100])), ids(&[1], None)], 8);
        assert!(masked.contains("`rows.jsonl` has a target token (line 1 to line 2)"), "{masked}");
        assert!(masked.contains("only labels that are ignored"), "{masked}");
        assert!(error(vec![ids(&[1], None)], 8).contains("it takes two to predict one"));
        assert!(error(vec![prompted("ABCDEF", "G")], 4).contains("raise max_length above 4"));
    }

    #[test]
    fn foreign_ids_and_untokenizable_text_are_named_by_line() {
        let error = encode_all(vec![ids(&[1, 300], None), ids(&[1, 2], Some(&[1, 256])), ids(&[1, 2], None)], 8);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("line 1: token id 300 is outside the model's vocabulary of 256"), "{error}");
        assert!(error.contains("line 2: token id 256"), "{error}");
        let list = vec![Row::Text("A".into()), Row::Text("\0".into())];
        assert!(encode_all(list.clone(), 8).unwrap_err().to_string().contains("line 2: a NUL"));
        let options = EncodeOptions { max_length: 8, vocab_size: 50 };
        let error = encode_rows(&rows(RowShape::Text, list.clone()), Some(&Bytes), options).unwrap_err().to_string();
        assert!(error.contains("token id 65") && error.contains("this tokenizer is not the model's"), "{error}");
        let error = encode_rows(&rows(RowShape::Text, list), None, options).unwrap_err().to_string();
        assert!(error.contains("`rows.jsonl` holds text (text rows), but the model has no tokenizer"), "{error}");
    }
}
