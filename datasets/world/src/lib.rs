#![doc = include_str!("../README.md")]

use std::path::Path;
use std::{fs, io};

macro_rules! files {
    ($($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("../", $name)))),*]
    };
}

/// A file: its name and its bytes.
pub type File = (&'static str, &'static [u8]);

/// The base model: the files of a Hugging Face model directory, weights in f16.
pub const MODEL: &[File] = files!("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json");

/// The courier's task: rows of `prompt` and `completion` to train on, and rows that are held out.
pub const TASK: &[File] = files!("task-train.jsonl", "task-valid.jsonl");

/// Questions that the base model can answer: what fine-tuning should not make it forget.
pub const QUESTIONS: &[File] = files!("world-valid.jsonl");

/// Writes files into a folder, which is made if it is not there.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("peft-world-doc-{}", std::process::id()));
/// peft_world::write(peft_world::MODEL, &dir)?;
/// assert!(dir.join("config.json").exists());
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write(files: &[File], dir: impl AsRef<Path>) -> io::Result<()> {
    let dir = dir.as_ref();
    fs::create_dir_all(dir)?;
    files.iter().try_for_each(|(name, bytes)| fs::write(dir.join(name), bytes))
}
