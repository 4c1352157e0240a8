//! The results that a step leaves for metrics and for the end of the run. All of Burn's copies of a wrapped model share it.

use std::collections::VecDeque;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use burn::tensor::Tensor;
use burn::train::Interrupter;

use crate::error::LearnerError;

/// How many batches metrics may be behind. Burn's are at most three behind.
const KEPT: usize = 64;

/// The results of an optimiser step.
#[derive(Clone, Debug, Default)]
pub(super) struct StepNumbers {
    /// AdaLoRA: triplets allowed.
    pub budget: Option<usize>,
    /// AdaLoRA: entries of all E that are not zero, `[1]`.
    pub live: Option<Tensor<1>>,
    /// The norm of all gradients together before clipping, `[1]`.
    pub grad_norm: Option<Tensor<1>>,
}

#[derive(Default)]
struct State {
    error: Option<Arc<LearnerError>>,
    interrupter: Option<Interrupter>,
    /// Batches of the present step so far.
    batches: usize,
    /// Whether any metric looks at it.
    watched: bool,
    /// Of several devices, one tells the metrics.
    thread: Option<ThreadId>,
    /// After each of the last batches.
    log: VecDeque<StepNumbers>,
    /// Batches logged in all.
    logged: usize,
    last: StepNumbers,
}

#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<State>>);

impl Debug for Watch {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stop_through(&self, interrupter: Interrupter) {
        self.state().interrupter = Some(interrupter);
    }

    pub fn error(&self) -> Option<Arc<LearnerError>> {
        self.state().error.clone()
    }

    /// The first error counts.
    pub fn fail(&self, error: impl Into<LearnerError>) {
        let error = error.into();
        let mut state = self.state();
        if state.error.is_none() {
            state.interrupter.iter().for_each(|interrupter| interrupter.stop(Some(&error.to_string())));
            state.error = Some(Arc::new(error));
        }
    }

    /// Begins a batch; returns its number in its step.
    pub fn begin_batch(&self) -> usize {
        let mut state = self.state();
        let here = std::thread::current().id();
        if state.watched && *state.thread.get_or_insert(here) == here {
            let last = state.last.clone();
            state.log.push_back(last);
            state.logged += 1;
            if state.log.len() > KEPT {
                state.log.pop_front();
            }
        }
        state.batches += 1;
        state.batches - 1
    }

    /// Ends a step with the batch that was begun last.
    pub fn end_step(&self, numbers: StepNumbers) {
        let mut state = self.state();
        state.batches = 0;
        state.log.iter_mut().next_back().into_iter().for_each(|last| *last = numbers.clone());
        state.last = numbers;
    }

    /// Whether any metric looks at it.
    pub fn is_watched(&self) -> bool {
        self.state().watched
    }

    /// Logs from here on; returns the number of the next batch.
    pub fn watch(&self) -> usize {
        let mut state = self.state();
        (state.watched, state.thread) = (true, None);
        state.logged
    }

    /// The numbers after a batch, or the nearest that are known.
    pub fn after(&self, batch: usize) -> StepNumbers {
        let state = self.state();
        let at = (batch + state.log.len()).saturating_sub(state.logged);
        state.log.get(at).unwrap_or(&state.last).clone()
    }

    /// The numbers after the last step.
    pub fn last(&self) -> StepNumbers {
        self.state().last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_has_the_numbers_of_its_step_however_far_training_is_ahead() {
        let watch = Watch::default();
        let budget = |budget| StepNumbers { budget: Some(budget), ..StepNumbers::default() };
        let next = watch.watch();
        for step in 1..=20 {
            assert_eq!([watch.begin_batch(), watch.begin_batch()], [0, 1]);
            watch.end_step(budget(step));
        }
        let found: Vec<_> = (next..next + 5).map(|batch| watch.after(batch).budget).collect();
        assert_eq!(found, [None, Some(1), Some(1), Some(2), Some(2)]);
        assert_eq!((watch.after(39).budget, watch.after(99).budget), (Some(20), Some(20)));
        for step in 21..=100 {
            watch.begin_batch();
            watch.end_step(budget(step));
        }
        assert_eq!((watch.after(0).budget, watch.after(119).budget), (Some(37), Some(100)));
    }
}
