//! Texts that a model in training writes, so that one sees what it learns.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use llama_burn::{CausalModel, Generate, GenerateOptions, Text};
use serde::{Deserialize, Serialize};

use crate::error::{LearnerError, Problems, Result};
use crate::whole_file::write_whole;

/// A text that a model in training wrote: a line of `samples.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Steps done.
    pub step: usize,
    /// The prompt.
    pub prompt: String,
    /// The continuation.
    pub text: String,
}

/// Prompts that the model answers at every evaluation.
#[derive(Debug)]
pub(crate) struct Sampler {
    text: Text,
    prompts: Vec<String>,
    options: GenerateOptions,
}

impl Sampler {
    /// The text ends at the model's own stop tokens, and those of `options`.
    pub fn new(text: Text, prompts: Vec<String>, mut options: GenerateOptions) -> Self {
        let more = text.stop.ids().iter().filter(|id| !options.stop.contains(id)).copied().collect::<Vec<_>>();
        options.stop.extend(more);
        Self { text, prompts, options }
    }

    /// Adds the prompts that cannot be answered to `problems`.
    pub fn check<M: CausalModel>(&self, model: &M, problems: &mut Problems) {
        let vocab = model.spec().vocab_size;
        for prompt in &self.prompts {
            let problem = match self.text.tokenizer.encode(prompt, true) {
                Ok(ids) if ids.is_empty() => "it is empty".to_owned(),
                Ok(ids) if ids.iter().any(|&id| id as usize >= vocab) => {
                    "it has tokens that the model lacks".to_owned()
                }
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            problems.push(format!("the sample prompt `{prompt}` cannot be answered: {problem}"));
        }
    }

    /// Lets `model` answer.
    ///
    /// # Errors
    /// Those of generation and decoding.
    pub fn write<M: CausalModel>(&self, step: usize, model: &M) -> Result<Vec<Sample>> {
        // One prompt at a time: a batch would be padded to its longest.
        let answer = |prompt: &String| {
            let ids = self.text.tokenizer.encode(prompt, true)?;
            let written = model.generate(&[ids], &self.options, |_, _| ControlFlow::Continue(()))?;
            let text = self.text.tokenizer.decode(written.first().map_or(&[], Vec::as_slice), true)?;
            Ok(Sample { step, prompt: prompt.clone(), text })
        };
        self.prompts.iter().map(answer).collect()
    }
}

/// Appends to `samples.jsonl`.
#[derive(Debug)]
pub(crate) struct SampleFile(PathBuf);

impl SampleFile {
    /// The file at `path`, without what comes after `step`: a resumed run writes that anew.
    pub fn resume(path: PathBuf, step: usize) -> Result<Self> {
        let file = Self(path);
        let text = match std::fs::read_to_string(&file.0) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(file),
            Err(error) => return Err(LearnerError::io("read", &file.0)(error)),
        };
        let earlier = |line: &&str| serde_json::from_str::<Sample>(line).is_ok_and(|sample| sample.step <= step);
        let kept: String = text.split_inclusive('\n').filter(earlier).collect();
        if kept != text {
            write_whole(&file.0, kept.as_bytes())?;
        }
        Ok(file)
    }

    pub fn append(&self, samples: &[Sample]) -> Result<()> {
        let Self(path) = self;
        let mut lines = String::new();
        for sample in samples {
            let line = serde_json::to_string(sample).map_err(std::io::Error::other);
            lines += &line.map_err(LearnerError::io("write", path))?;
            lines.push('\n');
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(LearnerError::io("write", path))
    }
}

/// All lines of a `samples.jsonl`. What a killed run left half-written is passed over.
///
/// # Errors
/// A file that cannot be read.
pub fn read_samples(path: impl AsRef<Path>) -> Result<Vec<Sample>> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(LearnerError::io("read", path))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn resuming_drops_later_samples_and_half_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        let sample = |step| Sample { step, prompt: "a".into(), text: "b\nc".into() };
        let file = SampleFile::resume(path.clone(), 0).unwrap();
        file.append(&[sample(1), sample(2)]).unwrap();
        file.append(&[sample(3)]).unwrap();
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"step\":1,\"pro");
        std::fs::write(&path, text).unwrap();
        SampleFile::resume(path.clone(), 2).unwrap();
        assert_eq!(read_samples(&path).unwrap(), [sample(1), sample(2)]);
    }
}
