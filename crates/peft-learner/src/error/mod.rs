//! Errors of a run, each with the file it happened in and the way out.

mod causes;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::train::TrainingError;

pub use causes::{AdaLoraError, DataFileProblem, ResumeError, StepCountError, StreamError};

pub use crate::problems::Problems;

/// `Result` with this crate's error.
pub type Result<T, E = LearnerError> = std::result::Result<T, E>;

/// An error of configuring, reading data for, or reporting on a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnerError {
    /// The file system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The action, such as `read` or `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The configuration file is no TOML.
    #[error("`{}` is not valid TOML: {message}", file.display())]
    ConfigSyntax {
        /// The configuration file.
        file: PathBuf,
        /// The parser's message, with line and column.
        message: String,
    },
    /// The configuration says something that cannot be run; all of it is listed.
    #[error("`{}` cannot be used as it is:{problems}", file.display())]
    Config {
        /// The configuration file.
        file: PathBuf,
        /// Every unknown key, missing key and impossible value.
        problems: Problems,
    },
    /// Rows of a data file cannot be used.
    #[error("`{}` has rows that cannot be used:{problems}", file.display())]
    Data {
        /// The data file.
        file: PathBuf,
        /// The first offending lines, and how many there are.
        problems: Problems,
    },
    /// A data file that is not read, or a name that stands for none.
    #[error("`{}` cannot be used as data: {message}", file.display())]
    DataFile {
        /// The file, folder or pattern.
        file: PathBuf,
        /// The kind of fault.
        problem: DataFileProblem,
        /// The fault, and the way out.
        message: String,
    },
    /// A data set failed to give an example.
    #[error("cannot read an example: {0}")]
    Dataset(#[source] Box<dyn Error + Send + Sync>),
    /// A data file without a row.
    #[error("`{}` has no rows; it should hold one JSON object a line", file.display())]
    NoRows {
        /// The data file.
        file: PathBuf,
    },
    /// No row of a data file has anything to learn from.
    #[error(
        "no row of `{}` has a target token ({first} to {last}): {reason}",
        file.display()
    )]
    NoTarget {
        /// The data file.
        file: PathBuf,
        /// Where the first row is, such as `line 1`.
        first: String,
        /// Where the last row is.
        last: String,
        /// Why, for the first of them, and what to change.
        reason: String,
    },
    /// The rows hold text, but the model came without a tokenizer.
    #[error(
        "`{}` holds text ({shape} rows), but the model has no tokenizer; \
         put its tokenizer.json beside the weights, or give rows of `input_ids`",
        file.display()
    )]
    NoTokenizer {
        /// The data file.
        file: PathBuf,
        /// The shape of its rows, by its keys.
        shape: String,
    },
    /// An exact match was asked for where there is nothing to prompt with.
    #[error(
        "exact match: the first token of example {example} is a target already, so there is no prompt to answer; give \
         rows of prompt + completion, instruction + output or messages, or ask for the loss alone"
    )]
    NoPrompt {
        /// Which example, from 1, of those that have a target.
        example: usize,
    },
    /// The learning rate would still be rising when the run ends.
    #[error(
        "`training.warmup_steps` is {warmup_steps}, but the run has {total_steps} steps; lower it, or train for longer"
    )]
    WarmUp {
        /// Steps of the rise.
        warmup_steps: usize,
        /// Steps of the run.
        total_steps: usize,
    },
    /// A layer that runs again in backward would drop other inputs than in its forward pass.
    #[error(
        "`training.gradient_checkpointing` does not go with dropout, and the adapter's is {dropout}; set one of them to \
         false or 0"
    )]
    CheckpointedDropout {
        /// The adapter's probability.
        dropout: f64,
    },
    /// The training loop accumulates a number of micro-batches that differs from the one the stream made its batches for.
    #[error(
        "the micro-batches that the training loop adds up to one step have {found} targets, and were made for a step of \
         {made_for}: let the loop accumulate as many of them as the stream makes for a step"
    )]
    Accumulation {
        /// Targets of the micro-batches that came together.
        found: usize,
        /// Targets of the step that the last of them was made for.
        made_for: usize,
    },
    /// Several devices of which Burn cannot add up the gradients.
    #[error(
        "cannot train on {devices} devices together: Burn adds up gradients across devices by a collective that it has for \
         CUDA GPUs alone, each of them named once; train on one device, or on several CUDA GPUs"
    )]
    NoCollective {
        /// How many there are.
        devices: usize,
    },
    /// Gradient checkpointing on several devices.
    #[error(
        "`training.gradient_checkpointing` does not go with several devices: Burn adds up the gradients of parameters that \
         it sees in the graph, and layers that run again in backward hide theirs; set it to false, or train on one device"
    )]
    CheckpointedReplicas,
    /// A run cannot go on from its checkpoint.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// AdaLoRA cannot be trained so.
    #[error(transparent)]
    AdaLora(#[from] AdaLoraError),
    /// Options that cannot be run, or contradict each other; all of them are listed.
    #[error("the run cannot be begun with these options:{0}")]
    Options(Problems),
    /// Another run is at work in the folder.
    #[error("another run is at work in `{}`; wait until it has ended, or use another folder", path.display())]
    OutputInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The system does not let the process handle its signals.
    #[error("cannot listen to Ctrl-C and SIGTERM: {0}")]
    Signals(io::Error),
    /// A stream of batches that cannot exist, such as one over no examples.
    #[error("cannot make batches: {0}")]
    Stream(#[from] StreamError),
    /// A line of `metrics.jsonl` that is none of ours.
    #[error("line {line} of `{}` is not a metrics line: {source}", file.display())]
    Metrics {
        /// The metrics file.
        file: PathBuf,
        /// Line number from 1.
        line: usize,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// The loss or a gradient became NaN or infinite.
    #[error(
        "step {step}: the loss is {loss} and the gradient norm {grad_norm}; training stopped before the step was applied; \
         {}. Lower learning_rate, or raise warmup_steps, and look at the rows of this step",
        match last_good {
            Some(path) => format!("the last good checkpoint is `{}`", path.display()),
            None => "no checkpoint was written before".to_owned(),
        }
    )]
    NotFinite {
        /// The step, from 1.
        step: usize,
        /// Its loss.
        loss: f64,
        /// Norm of all gradients together.
        grad_norm: f64,
        /// The newest checkpoint.
        last_good: Option<PathBuf>,
    },
    /// A checkpoint that cannot be written or read.
    #[error("checkpoint `{}`: {source}", path.display())]
    Checkpoint {
        /// The file in it.
        path: PathBuf,
        /// The fault.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The disk is full.
    #[error(
        "{source}; the disk of `{}` is full, {}",
        dir.display(),
        match last {
            Some(path) => format!("and `{}` is the last whole checkpoint", path.display()),
            None => "and there is no whole checkpoint".to_owned(),
        }
    )]
    DiskFull {
        /// The run's folder.
        dir: PathBuf,
        /// The failed write.
        source: Box<Self>,
        /// The newest complete checkpoint.
        last: Option<PathBuf>,
    },
    /// Training was stopped from outside.
    #[error(
        "{} after step {step}; {}",
        match signal {
            Some(signal) => format!("stopped by {}", signal_name(*signal)),
            None => "stopped".to_owned(),
        },
        match checkpoint {
            Some(path) => format!("the checkpoint `{}` is complete: the run can be resumed from there", path.display()),
            None => "no checkpoint was written".to_owned(),
        }
    )]
    Interrupted {
        /// Steps done.
        step: usize,
        /// The newest checkpoint.
        checkpoint: Option<PathBuf>,
        /// The signal that asked for it, by its number.
        signal: Option<i32>,
    },
    /// Burn's training loop failed.
    #[error("training failed: {0}")]
    Training(#[source] Arc<TrainingError>),
    /// A step of an [`Adapted`](crate::adapted::Adapted) model failed; the steps after it have changed nothing.
    #[error("training failed: {0}")]
    Step(#[source] Arc<Self>),
    /// The run's folder holds a run already.
    #[error("`{}` already holds a run; resume or overwrite it, or use another folder", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// A run is resumed with another configuration than it began with.
    #[error("`{}` was begun with another configuration; these differ:{differences}\nuse another output folder, or overwrite the run", path.display())]
    ConfigChanged {
        /// The saved configuration.
        path: PathBuf,
        /// The keys.
        differences: Problems,
    },
    /// An adapter that is to be trained and is not set to be.
    #[error("adapter `{0}` is not trained: make it active (set_adapter) and trained (set_trainable) first")]
    NotTrained(String),
    /// The number of optimiser steps cannot be counted.
    #[error("cannot count the optimiser steps: {0}")]
    StepCount(#[from] StepCountError),
    /// An error of the model or its tokenizer.
    #[error(transparent)]
    Llama(#[from] llama_burn::LlamaError),
    /// An error of an adapter.
    #[error(transparent)]
    Peft(#[from] peft_burn::PeftError),
    /// The plot could not be drawn.
    #[error("cannot draw `{}`: {message}", file.display())]
    Plot {
        /// The picture's file.
        file: PathBuf,
        /// The drawing library's reason.
        message: String,
    },
}

fn signal_name(signal: i32) -> String {
    match signal {
        2 => "Ctrl-C (SIGINT)".to_owned(),
        15 => "SIGTERM".to_owned(),
        other => format!("signal {other}"),
    }
}

impl LearnerError {
    /// Whether the disk was full. Burn's records tell it in words alone.
    pub(crate) fn is_disk_full(&self) -> bool {
        let full =
            |source: &io::Error| matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Io { source, .. }
            | Self::Peft(peft_burn::PeftError::Io { source, .. })
            | Self::Llama(llama_burn::LlamaError::Io { source, .. }) => full(source),
            Self::Checkpoint { source, .. } => {
                let message = source.to_string();
                message.contains("No space left on device") || message.contains("quota exceeded")
            }
            _ => false,
        }
    }

    /// For `map_err`: wraps the system's reason with what was attempted on which path.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
