//! The causes in [`LearnerError`](super::LearnerError) that a program may want to act on.

use std::sync::Arc;

use burn::data::dataset::DatasetError;

/// Why there can be no stream of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// There is nothing to train on.
    #[error("there are no examples")]
    NoExamples,
    /// Micro-batches without a row.
    #[error("batch_size is 0")]
    NoRows,
    /// Steps without a micro-batch.
    #[error("accumulation is 0")]
    NoMicroBatches,
    /// Steps of more rows than fit into any memory.
    #[error("a step of {rows} rows; batch_size times accumulation is at most {most}", most = crate::data::MOST_ROWS_A_STEP)]
    TooManyRows {
        /// `batch_size` times `accumulation`, or the largest number where that is beyond all.
        rows: usize,
    },
    /// Rows that are packed and hold no token.
    #[error("packing into rows of 0 tokens; give the tokens that a row holds, or leave packing out")]
    NoRoom,
    /// Rows grouped by length, and packed.
    #[error("packing and group_by_length exclude each other: packed rows are about equally long already")]
    GroupsAndPacking,
    /// Rows grouped by length in the order of the file.
    #[error("group_by_length needs shuffle")]
    GroupsInOrder,
}

/// The kind of fault that a data file has as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataFileProblem {
    /// The folder or pattern has no file of rows, or none for this part of the data.
    NothingFound,
    /// The name stands for something that holds no rows: a device, a pattern that is none.
    NoFile,
    /// The contents are of a format that is not read, or not whole.
    Format,
    /// Columns that are missing, doubled, or named and not there.
    Columns,
    /// A weight that leaves no row, or far too many.
    Weight,
}

/// Why the optimiser steps of a loader cannot be counted.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepCountError {
    /// The loader has no batches.
    #[error("the data loader has no batches")]
    NoBatches,
    /// No epochs, or steps without a batch.
    #[error("{epochs} epochs with gradients of {accumulation} batches a step: both are at least 1")]
    NoSteps {
        /// Times that the loader is gone through.
        epochs: usize,
        /// Batches a step.
        accumulation: usize,
    },
    /// The loader failed.
    #[error("the data loader failed: {0}")]
    Loader(#[source] Arc<DatasetError>),
}

/// Why a run cannot go on from its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// A run is resumed on another number of devices than it began with.
    #[error("the checkpoint is of a run on {were} device(s), and this one has {are}; go on with as many as before")]
    DevicesChanged {
        /// Then.
        were: usize,
        /// Now.
        are: usize,
    },
    /// A run is resumed that has more steps behind it than it is to have.
    #[error("the checkpoint is of step {done}, and the run is to have {total_steps} steps; raise max_steps")]
    BeyondTheEnd {
        /// The checkpoint's step.
        done: usize,
        /// Steps of the run.
        total_steps: usize,
    },
    /// A run is resumed on other contents than it was begun with.
    #[error(
        "the run was begun with other contents: {} changed since; a resumed run must go on with the same, begin a new one \
         in another folder",
        changed.join(", ")
    )]
    ContentsChanged {
        /// The contents that differ: `data`, `valid`, `base`, `tokenizer`.
        changed: Vec<String>,
    },
    /// A run with AdaLoRA is resumed for another number of steps.
    #[error(
        "AdaLoRA's phases are laid over the {were} steps that the run was begun with, and it is now to have {are}; go on \
         with {were} steps, or begin a new run from the adapter"
    )]
    PhasesMoved {
        /// Steps then.
        were: usize,
        /// Steps now.
        are: usize,
    },
}

/// Why AdaLoRA cannot be trained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdaLoraError {
    /// AdaLoRA's `total_step` is not the run's number of steps.
    #[error(
        "adapter.total_step is {total_step} and the run has {steps} steps; leave total_step out, it is taken from the run, or \
         make the two agree by training.max_steps"
    )]
    TotalStep {
        /// As configured.
        total_step: usize,
        /// Optimiser steps of the run.
        steps: usize,
    },
    /// AdaLoRA's phases do not fit into the run.
    #[error(
        "AdaLoRA cannot prune in this run of {steps} steps, from which total_step is taken (training.max_steps or \
         num_train_epochs): {}",
        problems.join("\n")
    )]
    Phases {
        /// Optimiser steps of the run.
        steps: usize,
        /// The phases in steps, and what to change.
        problems: Vec<String>,
    },
    /// AdaLoRA in a training loop whose number of steps is not known.
    #[error(
        "AdaLoRA needs the number of optimiser steps that it is trained for: set total_step, for example by \
         PeftConfig::with_total_step(optimizer_steps(&*loader, epochs, accumulation)?)"
    )]
    NoTotalStep,
    /// `shrink_after_pruning` for an adapter that is not pruned.
    #[error(
        "training.shrink_after_pruning takes pruned triplets out of memory, and only peft_type = \"ADALORA\" prunes; leave \
         it out"
    )]
    NothingToShrink,
}
