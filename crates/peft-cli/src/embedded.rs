//! The small base model and its task, compiled into the program so that the quickstart works anywhere.

use std::path::Path;

use peft_learner::LearnerError;
use peft_learner::files::write_whole;

use crate::failure::Result;

macro_rules! world {
    ($($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("../../../datasets/world/", $name)))),*]
    };
}

/// The model: a directory as Hugging Face lays it out.
const BASE: &[(&str, &[u8])] = world!("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json");

/// What it is fine-tuned on, and what it has not seen.
const DATA: &[(&str, &[u8])] = world!("task-train.jsonl", "task-valid.jsonl");

/// Writes the model into `base` and the task into `data`.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn unpack(base: &Path, data: &Path) -> Result {
    for (folder, files) in [(base, BASE), (data, DATA)] {
        std::fs::create_dir_all(folder).map_err(LearnerError::io("create", folder))?;
        for (name, bytes) in files {
            write_whole(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
