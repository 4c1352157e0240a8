//! `metrics.jsonl`: one line per optimiser step and per evaluation.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{LearnerError, Result};
use crate::whole_file::write_whole;

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "split", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Metrics {
    /// An optimiser step.
    Train(StepReport),
    /// An evaluation.
    Valid(EvalReport),
}

/// The results of an optimiser step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, from 1.
    pub step: usize,
    /// The function that was differentiated: the mean over the step's target tokens, in nats, and any regulariser.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Norm of all gradients together, before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Tokens of the step, padding excepted.
    pub tokens: usize,
    /// Over the time of the step.
    pub tokens_per_second: f64,
    /// AdaLoRA: the loss without its regulariser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_loss: Option<f64>,
    /// AdaLoRA: the regulariser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orthogonal_loss: Option<f64>,
    /// AdaLoRA: triplets allowed at this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
    /// AdaLoRA: entries of all E that are not zero after the step. Between two masks pruned ones come back to life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_triplets: Option<usize>,
}

/// The results of an evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Steps done before it.
    pub step: usize,
    /// Mean negative log-likelihood per target token, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// e to the `loss`.
    #[serde(deserialize_with = "null_is_nan")]
    pub perplexity: f64,
    /// Target tokens.
    pub tokens: usize,
    /// The program's own metrics, each under its own key.
    #[serde(flatten, deserialize_with = "nulls_are_nan")]
    pub own: BTreeMap<String, f64>,
}

impl EvalReport {
    /// The keys that metrics of one's own cannot have.
    pub(crate) const KEYS: [&str; 5] = ["split", "step", "loss", "perplexity", "tokens"];
}

impl Metrics {
    /// The step of the line.
    pub fn step(&self) -> usize {
        match self {
            Self::Train(report) => report.step,
            Self::Valid(report) => report.step,
        }
    }
}

/// JSON has no NaN; it is written as `null`.
fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn nulls_are_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let map: BTreeMap<String, Option<f64>> = Deserialize::deserialize(deserializer)?;
    Ok(map.into_iter().map(|(key, value)| (key, value.unwrap_or(f64::NAN))).collect())
}

/// Appends to `metrics.jsonl`, each line in one write, so that who reads along sees whole lines.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
}

impl MetricsWriter {
    /// Opens `path` for appending, creating it where it is missing.
    ///
    /// # Errors
    /// [`LearnerError::Io`] where the file cannot be opened.
    pub fn append(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(LearnerError::io("open", &path))?;
        Ok(Self { file, path })
    }

    /// Writes one line.
    ///
    /// # Errors
    /// [`LearnerError::Io`] where the file cannot be written.
    pub fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let line = serde_json::to_string(metrics).map_err(std::io::Error::other);
        line.and_then(|line| self.file.write_all(format!("{line}\n").as_bytes()))
            .map_err(LearnerError::io("write", &self.path))
    }
}

/// All lines of `path`. A last line that a killed run left half-written is passed over.
///
/// # Errors
/// [`LearnerError::Metrics`] with the number of any other line that is not ours.
pub fn read_metrics(path: impl AsRef<Path>) -> Result<Vec<Metrics>> {
    let path = path.as_ref();
    let text = std::fs::read(path).map_err(LearnerError::io("read", path))?;
    whole_lines(&text).enumerate().map(|(at, line)| parse(path, at + 1, line)).collect()
}

/// Drops what comes after `step`, and a half-written last line: a run resumed from a checkpoint of `step` writes those
/// lines anew. A missing file stays missing.
///
/// # Errors
/// [`LearnerError::Metrics`] for a line that is not ours; the file is then left as it is.
pub fn truncate_after(path: impl AsRef<Path>, step: usize) -> Result<()> {
    let path = path.as_ref();
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LearnerError::io("read", path)(error)),
    };
    let mut kept = Vec::new();
    for (at, line) in whole_lines(&text).enumerate() {
        if parse(path, at + 1, line)?.step() <= step {
            kept.extend_from_slice(line);
        }
    }
    if kept == text { Ok(()) } else { write_whole(path, &kept) }
}

/// The lines that end, with their ends.
fn whole_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"))
}

fn parse(path: &Path, number: usize, line: &[u8]) -> Result<Metrics> {
    serde_json::from_slice(line).map_err(|source| LearnerError::Metrics {
        file: path.to_path_buf(),
        line: number,
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn train(step: usize) -> Metrics {
        Metrics::Train(StepReport {
            step,
            loss: 2.5,
            learning_rate: 2e-4,
            grad_norm: 0.75,
            tokens: 512,
            tokens_per_second: 100.0,
            ..StepReport::default()
        })
    }

    fn valid(step: usize) -> Metrics {
        Metrics::Valid(EvalReport { step, loss: 2.0, perplexity: 7.389, tokens: 99, ..EvalReport::default() })
    }

    fn written(lines: &[Metrics]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::append(&path).unwrap();
        lines.iter().for_each(|line| writer.write(line).unwrap());
        (folder, path)
    }

    #[test]
    fn lines_have_the_documented_keys() {
        let (_folder, path) = written(&[train(1), valid(1)]);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"split\":\"train\",\"step\":1,\"loss\":2.5,\"learning_rate\":0.0002,\"grad_norm\":0.75,\"tokens\":512,\
             \"tokens_per_second\":100.0}\n\
             {\"split\":\"valid\",\"step\":1,\"loss\":2.0,\"perplexity\":7.389,\"tokens\":99}\n"
        );
        let Metrics::Train(report) = train(1) else { unreachable!() };
        let adalora = Metrics::Train(StepReport { budget: Some(12), live_triplets: Some(11), ..report });
        let text = serde_json::to_string(&adalora).unwrap();
        assert!(text.ends_with("\"budget\":12,\"live_triplets\":11}"), "{text}");
    }

    #[test]
    fn what_is_written_is_read_and_nan_is_nan() {
        let lines = [train(1), valid(1), train(2)];
        let (_folder, path) = written(&lines);
        assert_eq!(read_metrics(&path).unwrap(), lines);
        let own = BTreeMap::from([("accuracy".to_owned(), 0.5), ("odd".to_owned(), f64::NAN)]);
        let nan = Metrics::Valid(EvalReport { loss: f64::NAN, own, ..EvalReport::default() });
        MetricsWriter::append(&path).unwrap().write(&nan).unwrap();
        let Metrics::Valid(report) = &read_metrics(&path).unwrap()[3] else { unreachable!() };
        assert!(report.loss.is_nan() && report.own["accuracy"] == 0.5 && report.own["odd"].is_nan());
    }

    #[test]
    fn resuming_drops_later_lines_and_half_a_line() {
        let (_folder, path) = written(&[train(1), train(2), valid(2), train(3)]);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"split\":\"train\",\"st").unwrap();
        assert_eq!(read_metrics(&path).unwrap().len(), 4);
        truncate_after(&path, 2).unwrap();
        MetricsWriter::append(&path).unwrap().write(&train(3)).unwrap();
        assert_eq!(read_metrics(&path).unwrap(), [train(1), train(2), valid(2), train(3)]);
        truncate_after(&path, 0).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        truncate_after("nowhere/metrics.jsonl", 3).unwrap();
    }

    #[test]
    fn a_foreign_line_is_named() {
        let (_folder, path) = written(&[train(1)]);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"split\":\"test\"}\n");
        std::fs::write(&path, &text).unwrap();
        for error in [read_metrics(&path).unwrap_err(), truncate_after(&path, 0).unwrap_err()] {
            assert!(error.to_string().starts_with("line 2 of `"), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), text, "left as it was");
    }
}
