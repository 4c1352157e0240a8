//! The endless, seeded stream of micro-batches a run draws from.

mod config;
mod epoch;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use super::batch::share_step_targets;
use super::{Batch, Example, Examples};
use crate::config::TrainingConfig;
use crate::error::{Result, StreamError};
pub use config::{MOST_ROWS_A_STEP, StreamConfig};
use epoch::{Epoch, plan};

/// Micro-batches without end, any step of which can be asked for: a resumed run needs only its step number.
///
/// An epoch is all rows once (with `packing`, a row holds several examples); micro-batches run on across its end, so
/// that none is short.
#[derive(Debug)]
pub struct Stream {
    examples: Examples,
    config: StreamConfig,
    /// Tokens of each example, where its place depends on them.
    lengths: Vec<usize>,
    rows_per_epoch: usize,
    /// The epoch last asked for.
    cache: Mutex<(u64, Arc<Epoch>)>,
}

impl Stream {
    /// A stream over `examples`: a vector, or any data set of Burn ([`Examples::new`]). They are read when their step comes;
    /// with `packing` and `group_by_length` all of them are read once before, for their lengths.
    ///
    /// # Errors
    /// [`StreamError`] for no examples, empty batches, steps of more than [`MOST_ROWS_A_STEP`] rows, packing into rows without
    /// room, and length groups without `shuffle` or with `packing`; what reading the data set reports.
    pub fn new(examples: impl Into<Examples>, config: StreamConfig) -> Result<Self> {
        let examples = examples.into();
        let problem = match &config {
            _ if examples.is_empty() => StreamError::NoExamples,
            config if config.batch_size == 0 => StreamError::NoRows,
            config if config.accumulation == 0 => StreamError::NoMicroBatches,
            config if config.batch_size.saturating_mul(config.accumulation) > MOST_ROWS_A_STEP => {
                StreamError::TooManyRows { rows: config.batch_size.saturating_mul(config.accumulation) }
            }
            config if config.packing && config.max_length == 0 => StreamError::NoRoom,
            config if config.group_by_length && config.packing => StreamError::GroupsAndPacking,
            config if config.group_by_length && !config.shuffle => StreamError::GroupsInOrder,
            config => {
                let by_length = config.packing || config.group_by_length;
                let length = |example: Result<Example>| example.map(|example| example.len());
                let lengths = if by_length { examples.iter().map(length).collect::<Result<_>>()? } else { Vec::new() };
                let first = plan(examples.len(), &lengths, config, 0);
                let (rows_per_epoch, cache) = (first.rows(), Mutex::new((0, Arc::new(first))));
                return Ok(Self { examples, config: config.clone(), lengths, rows_per_epoch, cache });
            }
        };
        Err(problem.into())
    }

    /// The micro-batches of optimiser step `k`, from 0. The same `k` gives the same batches, in whatever order steps
    /// are asked for.
    ///
    /// # Errors
    /// An error of reading the data set.
    pub fn step(&self, k: usize) -> Result<Vec<Batch>> {
        let first = k * self.rows_per_step();
        let micro = |at: usize| {
            let start = first + at * self.config.batch_size;
            let rows: Vec<_> =
                (start..start + self.config.batch_size).map(|row| self.row(row)).collect::<Result<_>>()?;
            let rows: Vec<Vec<&Example>> = rows.iter().map(|row| row.iter().collect()).collect();
            Ok(if self.config.packing {
                Batch::packed(&rows, self.config.pad_id)
            } else {
                Batch::collate(&rows.concat(), self.config.pad_id)
            })
        };
        let mut batches: Vec<Batch> = (0..self.config.accumulation).map(micro).collect::<Result<_>>()?;
        share_step_targets(&mut batches);
        Ok(batches)
    }

    /// How it makes them.
    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// Micro-batches of each step.
    pub fn micro_batches(&self) -> usize {
        self.config.accumulation
    }

    /// Rows in an epoch: the examples, or with `packing` what they were packed into.
    pub fn rows_per_epoch(&self) -> usize {
        self.rows_per_epoch
    }

    /// Steps until every row was seen: the last one may reach into the next epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.rows_per_epoch.div_ceil(self.rows_per_step())
    }

    /// Optimiser steps of a run over it: `max_steps`, or as many as it takes to see every row `num_train_epochs` times.
    pub fn total_steps(&self, training: &TrainingConfig) -> usize {
        let by_epochs = training.num_train_epochs * self.rows_per_epoch as f64 / self.rows_per_step() as f64;
        training.max_steps.unwrap_or((by_epochs.ceil() as usize).max(1))
    }

    fn rows_per_step(&self) -> usize {
        self.config.batch_size * self.config.accumulation
    }

    /// The examples in row `index`, counted over all epochs.
    fn row(&self, index: usize) -> Result<Vec<Example>> {
        let epoch = self.epoch((index / self.rows_per_epoch) as u64);
        epoch.row(index % self.rows_per_epoch).iter().map(|&example| self.examples.get(example)).collect()
    }

    fn epoch(&self, number: u64) -> Arc<Epoch> {
        // In file order all epochs are one.
        let number = if self.config.shuffle { number } else { 0 };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.0 != number {
            *cache = (number, Arc::new(plan(self.examples.len(), &self.lengths, &self.config, number)));
        }
        cache.1.clone()
    }
}
