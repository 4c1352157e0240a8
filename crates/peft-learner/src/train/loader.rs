//! The streams as Burn's training loop reads them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use crate::data::{Batch, EvalBatches, Stream};

/// The training stream, cut into Burn "epochs" that end where an evaluation is due: Burn evaluates between epochs.
#[derive(Clone)]
pub(crate) struct StepLoader {
    pub stream: Arc<Stream>,
    /// Optimiser steps done.
    pub done: Arc<AtomicUsize>,
    pub total_steps: usize,
    /// Steps between evaluations.
    pub eval_steps: usize,
    /// Micro-batches that a replica adds up in a step.
    pub accumulation: usize,
    /// Which of the run's replicas reads here.
    pub replica: usize,
    /// How many there are: every so-many-th micro-batch of a step is a replica's.
    pub replicas: usize,
}

impl StepLoader {
    /// How many epochs lie between `done` steps and the end.
    pub fn epochs(&self, done: usize) -> usize {
        self.total_steps.div_ceil(self.eval_steps)
            - (done / self.eval_steps).min(self.total_steps.div_ceil(self.eval_steps))
    }

    /// The steps of the epoch that begins now.
    fn next_steps(&self) -> std::ops::Range<usize> {
        let start = self.done.load(Ordering::SeqCst);
        let end = (start / self.eval_steps + 1) * self.eval_steps;
        start..end.min(self.total_steps)
    }
}

impl DataLoader<Batch> for StepLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let steps = self.next_steps();
        let total = steps.len() * self.accumulation;
        Box::new(Steps { loader: self, steps, ready: VecDeque::new(), given: 0, total })
    }

    fn num_items(&self) -> usize {
        self.next_steps().len() * self.accumulation * self.replicas
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<Batch>> {
        // Batches are on the host until the step that uses them.
        Arc::new(self.clone())
    }

    /// The share of one replica. Burn cuts all items into as many stretches as there are replicas, but a stretch would
    /// be other steps, and replicas work on the same: where the stretch begins only tells whose share is asked for.
    fn slice(&self, start: usize, _end: usize) -> Arc<dyn DataLoader<Batch>> {
        let replica = start * self.replicas / self.num_items().max(1);
        Arc::new(Self { replica, ..self.clone() })
    }
}

struct Steps<'a> {
    loader: &'a StepLoader,
    steps: std::ops::Range<usize>,
    ready: VecDeque<Batch>,
    given: usize,
    total: usize,
}

impl Iterator for Steps<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            let step = self.steps.next()?;
            let batches = match self.loader.stream.step(step) {
                Ok(batches) => batches.into_iter(),
                Err(error) => return Some(Err(DatasetError::new(error))),
            };
            self.ready = batches.skip(self.loader.replica).step_by(self.loader.replicas).collect();
        }
        self.given += 1;
        self.ready.pop_front().map(Ok)
    }
}

impl DataLoaderIterator<Batch> for Steps<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.given, self.total, Some("batches".into()))
    }
}

/// The batches of an evaluation, the same each time.
#[derive(Clone)]
pub(crate) struct EvalLoader(pub EvalBatches);

impl DataLoader<Batch> for EvalLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(Evaluation { batches: &self.0, given: 0 })
    }

    fn num_items(&self) -> usize {
        self.0.len()
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self(self.0.slice(start, end)))
    }
}

struct Evaluation<'a> {
    batches: &'a EvalBatches,
    given: usize,
}

impl Iterator for Evaluation<'_> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.given;
        self.given += 1;
        (at < self.batches.len()).then(|| self.batches.get(at).map_err(DatasetError::new))
    }
}

impl DataLoaderIterator<Batch> for Evaluation<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.given, self.batches.len(), Some("batches".into()))
    }
}
