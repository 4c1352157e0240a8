//! Callbacks: a program follows its run, and may end it.

use std::path::Path;

use super::samples::Sample;
use crate::report::{EvalReport, StepReport};

/// Whether a run goes on. A callback that returns `()` lets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flow {
    /// The run goes on.
    #[default]
    Go,
    /// The run ends after this step and writes a checkpoint. It returns the model as it is now, and can be resumed.
    Stop,
}

impl From<()> for Flow {
    fn from((): ()) -> Self {
        Self::Go
    }
}

/// An evaluation that is done.
#[derive(Debug)]
pub struct Evaluated<'a, M> {
    /// Its results.
    pub report: &'a EvalReport,
    /// The model, in validation mode.
    pub model: &'a M,
    /// The lowest loss of the evaluations before this one.
    pub best: Option<f64>,
    /// Evaluations since the lowest loss; 0: this one has it.
    pub since_best: usize,
}

impl<M> Evaluated<'_, M> {
    /// Whether an evaluation before this one had a loss as low or lower.
    pub fn worse(&self) -> bool {
        self.since_best > 0
    }
}

/// A checkpoint that is complete.
#[derive(Debug)]
pub struct Saved<'a, M> {
    /// Steps done.
    pub step: usize,
    /// Its folder, in which more can be put.
    pub path: &'a Path,
    /// The model that it holds.
    pub model: &'a M,
}

type OnStep = Box<dyn FnMut(&StepReport) -> Flow + Send>;
type OnEvaluation<M> = Box<dyn FnMut(&Evaluated<'_, M>) -> Flow + Send>;
type OnSample = Box<dyn FnMut(&Sample) + Send>;
type OnCheckpoint<M> = Box<dyn FnMut(&Saved<'_, M>) + Send>;
type OwnMetric<M> = Box<dyn FnMut(&M) -> f64 + Send>;

/// All that a program wants to be told.
pub(crate) struct Callbacks<M> {
    pub step: Vec<OnStep>,
    pub evaluation: Vec<OnEvaluation<M>>,
    pub checkpoint: Vec<OnCheckpoint<M>>,
    pub sample: Vec<OnSample>,
    /// By the key in metrics.jsonl.
    pub metrics: Vec<(String, OwnMetric<M>)>,
}

impl<M> Default for Callbacks<M> {
    fn default() -> Self {
        Self {
            step: Vec::new(),
            evaluation: Vec::new(),
            checkpoint: Vec::new(),
            sample: Vec::new(),
            metrics: Vec::new(),
        }
    }
}

impl<M> Callbacks<M> {
    /// Tells of a step. All are told, whatever one of them answers.
    pub fn step(&mut self, report: &StepReport) -> Flow {
        stop_if_any(self.step.iter_mut().map(|tell| tell(report)))
    }

    /// Tells of an evaluation.
    pub fn evaluation(&mut self, evaluated: &Evaluated<'_, M>) -> Flow {
        stop_if_any(self.evaluation.iter_mut().map(|tell| tell(evaluated)))
    }

    /// Tells of a text that the model wrote.
    pub fn sample(&mut self, sample: &Sample) {
        self.sample.iter_mut().for_each(|tell| tell(sample));
    }

    /// Tells of a checkpoint that is complete.
    pub fn checkpoint(&mut self, saved: &Saved<'_, M>) {
        self.checkpoint.iter_mut().for_each(|tell| tell(saved));
    }
}

fn stop_if_any(answers: impl Iterator<Item = Flow>) -> Flow {
    answers.fold(Flow::Go, |all, one| if one == Flow::Stop { one } else { all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_told_and_one_can_stop() {
        let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut callbacks = Callbacks::<()>::default();
        for (name, flow) in [("a", Flow::Stop), ("b", Flow::Go)] {
            let told = told.clone();
            callbacks.step.push(Box::new(move |report| {
                if let Ok(mut told) = told.lock() {
                    told.push((name, report.step));
                }
                flow
            }));
        }
        assert_eq!(callbacks.step(&StepReport { step: 3, ..StepReport::default() }), Flow::Stop);
        assert_eq!(told.lock().map(|told| told.clone()).unwrap_or_default(), [("a", 3), ("b", 3)]);
    }
}
