//! Batches to evaluate on, read when they are asked for.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::{Batch, Examples};
use crate::error::Result;

/// The batches of an evaluation, the same each time: every row once, rows of like lengths together, the longest first. What is
/// held in memory is 8 bytes a row.
#[derive(Debug, Clone)]
pub struct EvalBatches {
    examples: Examples,
    order: Arc<[usize]>,
    batch_size: usize,
    pad_id: u32,
    targets: usize,
    /// Which of the batches these are.
    range: Range<usize>,
}

impl EvalBatches {
    /// Batches of `batch_size` rows, filled up with `pad_id`.
    ///
    /// # Errors
    /// [`LearnerError::Dataset`](crate::LearnerError::Dataset) where an example cannot be read.
    pub fn new(examples: impl Into<Examples>, batch_size: usize, pad_id: u32) -> Result<Self> {
        let examples = examples.into();
        let (mut lengths, mut targets) = (Vec::with_capacity(examples.len()), 0);
        for example in examples.iter() {
            let example = example?;
            lengths.push(example.len());
            targets += example.num_targets();
        }
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&at| Reverse(lengths[at]));
        let batch_size = batch_size.max(1);
        let range = 0..order.len().div_ceil(batch_size);
        Ok(Self { examples, order: order.into(), batch_size, pad_id, targets, range })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Targets of all rows together, those of batches that a slice leaves out included.
    pub fn num_targets(&self) -> usize {
        self.targets
    }

    /// The batches `start..end` of these.
    pub(crate) fn slice(&self, start: usize, end: usize) -> Self {
        Self { range: self.range.start + start..self.range.start + end, ..self.clone() }
    }

    /// Batch `index` of them, from 0.
    ///
    /// # Errors
    /// [`LearnerError::Dataset`](crate::LearnerError::Dataset) where an example cannot be read.
    pub fn get(&self, index: usize) -> Result<Batch> {
        let first = (self.range.start + index) * self.batch_size;
        let rows = &self.order[first..self.order.len().min(first + self.batch_size)];
        let rows = rows.iter().map(|&row| self.examples.get(row)).collect::<Result<Vec<_>>>()?;
        Ok(Batch { step_targets: self.targets, ..Batch::collate(&rows.iter().collect::<Vec<_>>(), self.pad_id) })
    }

    /// All of them, one after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Batch>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}
