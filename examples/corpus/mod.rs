//! The text that the embedded model is trained on, as files.

use std::collections::HashSet;
use std::io::Error;
use std::path::Path;

use serde_json::{Value, json};
use small_world::{Corpus, World};

/// The whole text.
pub const DOCUMENTS: usize = 130_000;
const VALID_DOCUMENTS: usize = 400;

/// Writes `corpus.jsonl`, of so many documents, and `corpus-valid.jsonl`, of others, into a folder, and returns both.
pub fn write_corpus(dir: &Path, world: &World, documents: usize) -> Result<[Vec<String>; 2], Error> {
    std::fs::create_dir_all(dir)?;
    let corpus: Vec<String> = Corpus::new(world, 1).take(documents).collect();
    let known: HashSet<&str> = corpus.iter().map(String::as_str).collect();
    let valid: Vec<String> =
        Corpus::new(world, 2).filter(|text| !known.contains(text.as_str())).take(VALID_DOCUMENTS).collect();
    for (name, texts) in [("corpus.jsonl", &corpus), ("corpus-valid.jsonl", &valid)] {
        write_rows(&dir.join(name), texts.iter().map(|text| json!({ "text": text })))?;
    }
    Ok([corpus, valid])
}

pub fn write_rows(path: &Path, rows: impl Iterator<Item = Value>) -> Result<(), Error> {
    write(path, &rows.map(|row| format!("{row}\n")).collect::<String>())
}

/// Under a temporary name first, so that no reader ever meets half a file.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, path)
}
