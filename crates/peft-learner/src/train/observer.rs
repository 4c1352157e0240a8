//! Who follows a run from step to step.

use std::any::Any;

use burn::optim::ModuleOptimizer;

use crate::error::Result;
use crate::report::{EvalReport, StepReport};

/// The answer to a step: go on or stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next step.
    Step,
    /// An evaluation.
    Evaluation,
    /// Nothing: the run ends here.
    End,
}

/// Who is told how a run goes, and decides whether it goes on. An error ends it.
///
/// `model` is of the type that the observer was made for: Burn derives no module that skips a field whose type names the
/// module's own generics, so that a run cannot name it.
pub(crate) trait Observer: Send {
    /// A step is done and led to `model`.
    fn step(&mut self, report: &StepReport, model: &dyn Any, optim: &ModuleOptimizer) -> Result<Next>;

    /// A batch of the evaluation after `step` is done, and others are left.
    fn evaluating(&mut self, step: usize, model: &dyn Any, optim: Option<&ModuleOptimizer>) -> Result<Next>;

    /// An evaluation is done. `optim` is there where a step was made before it.
    fn evaluated(&mut self, report: EvalReport, model: &dyn Any, optim: Option<&ModuleOptimizer>) -> Result<Next>;
}
