//! Rows of every kind, and what is said of those that cannot be used.

use llama_burn::{Conversation, Encoded, Message};

use super::*;
use crate::data::{EncodeError, Example};

/// A token a byte; 1 begins, 2 ends, 3 ends a turn.
struct Bytes;

impl TextEncoder for Bytes {
    fn encode_text(&self, text: &str) -> Result<Encoded, EncodeError> {
        self.encode_completion("", text)
    }

    fn encode_segment(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Encoded, EncodeError> {
        if completion.contains('!') {
            return Err("an exclamation".into());
        }
        let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
        let ids = [vec![1], ids(prompt), ids(completion), vec![2]].concat();
        let targets = (0..ids.len()).map(|at| at > prompt.len()).collect();
        Ok(Encoded { ids, targets, ..Encoded::default() })
    }

    fn encode_chat(&self, chat: &Conversation) -> Result<Encoded, EncodeError> {
        let tokens = chat.messages.iter().flat_map(|message| {
            let assistant = message.role() == "assistant";
            message.content().bytes().map(u32::from).chain([3]).map(move |id| (id, assistant))
        });
        let (ids, targets) = tokens.unzip();
        Ok(Encoded { ids, targets, ..Encoded::default() })
    }

    fn encode_chat_completion(&self, prompt: &Conversation, _: &[Message]) -> Result<Encoded, EncodeError> {
        self.encode_chat(prompt)
    }

    fn mentions(&self, _: &str) -> bool {
        false
    }
}

fn prepare(rows: &str, encoder: Option<&dyn TextEncoder>, max_length: usize, vocab_size: usize) -> Result<Prepared> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, rows).unwrap();
    let options = EncodeOptions { max_length, vocab_size };
    Preparation::new(encoder, options).stop([2]).sources(&[path.into()], Part::Train)
}

fn encoded(rows: &str, max_length: usize) -> (Vec<Example>, EncodeReport) {
    let prepared = prepare(rows, Some(&Bytes), max_length, 256).unwrap();
    (prepared.examples.to_vec().unwrap(), prepared.report)
}

fn error(rows: &str, max_length: usize) -> String {
    prepare(rows, Some(&Bytes), max_length, 256).unwrap_err().to_string()
}

fn pair(prompt: &str, completion: &str) -> String {
    format!("{{\"prompt\": \"{prompt}\", \"completion\": \"{completion}\"}}\n")
}

#[test]
fn completions_and_assistants_are_learned() {
    let (examples, report) = encoded(&pair("AB", "CD"), 100);
    assert_eq!(examples[0].input_ids, [1, 65, 66, 67, 68, 2]);
    assert_eq!(examples[0].labels, [-100, -100, -100, 67, 68, 2]);
    assert_eq!((report.teaching_stop, report.warnings().len()), (1, 0));
    let chat =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"A\"}, {\"role\": \"assistant\", \"content\": \"B\"}]}";
    assert_eq!(encoded(chat, 100).0[0].labels, [-100, -100, 66, 3]);
}

#[test]
fn long_rows_are_cut_on_the_right_and_counted() {
    let rows = [pair("A", "BCDE"), pair("ABCDEF", "G"), pair("A", "B")].concat();
    let (examples, report) = encoded(&rows, 4);
    assert_eq!(examples.len(), 2, "the second one loses its completion");
    assert_eq!(examples[0].input_ids, [1, 65, 66, 67]);
    let counts = (report.rows, report.truncated, report.dropped_without_target, report.tokens, report.target_tokens);
    assert_eq!(counts, (3, 2, 1, 8, 4));
    let text = report.describe("a.jsonl");
    assert!(text.contains("2 rows were longer than max_length and cut; 1 rows without a target"), "{text}");
}

#[test]
fn a_file_without_any_target_is_an_error_that_says_why() {
    let masked = error("{\"input_ids\": [1, 2], \"labels\": [1, -100]}\n{\"input_ids\": [1]}", 8);
    assert!(masked.contains("has a target token (line 1 to line 2)"), "{masked}");
    assert!(masked.contains("only labels that are ignored"), "{masked}");
    assert!(error("{\"input_ids\": [1]}", 8).contains("it takes two to predict one"));
    assert!(error(&pair("ABCDEF", "G"), 4).contains("raise max_length above 4"));
}

#[test]
fn foreign_ids_and_untokenizable_text_are_named_by_line() {
    let error_of =
        error("{\"input_ids\": [1, 300]}\n{\"input_ids\": [1, 2], \"labels\": [1, 256]}\n{\"input_ids\": [1, 2]}", 8);
    assert!(error_of.contains("line 1: token id 300 is outside the model's vocabulary of 256"), "{error_of}");
    assert!(error_of.contains("line 2: token id 256"), "{error_of}");
    let text = "{\"text\": \"A\"}\n{\"text\": \"!\"}";
    assert!(error(text, 8).contains("line 2: an exclamation"));
    let small = prepare(text, Some(&Bytes), 8, 50).unwrap_err().to_string();
    assert!(small.contains("token id 65") && small.contains("this tokenizer is not the model's"), "{small}");
    let none = prepare(text, None, 8, 50).unwrap_err().to_string();
    assert!(none.contains("holds text (text rows), but the model has no tokenizer"), "{none}");
    assert!(prepare("{\"input_ids\": [1, 2]}", None, 8, 50).is_ok());
}
