#![doc = include_str!("../README.md")]

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
