//! The journal of a run, step by step: metrics, progress, checkpoints, callbacks; and whether it goes on.

use std::any::Any;

use burn::optim::ModuleOptimizer;
use llama_burn::CausalModel;

use super::callbacks::{Callbacks, Evaluated, Flow, Saved};
use super::checkpoint::Checkpoints;
use super::observer::{Next, Observer};
use super::samples::{SampleFile, Sampler};
use super::stop::{Reason, Requests};
use crate::error::Result;
use crate::report::{EvalReport, Metrics, MetricsWriter, Progress, StepReport};

/// Why a run ended before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// A callback said so: the run is what was wanted.
    ByCallback,
    /// It was asked to, and may go on later.
    ByRequest(Reason),
}

/// A run's journal.
pub(crate) struct Journal<M> {
    pub metrics: MetricsWriter,
    pub progress: Progress,
    pub checkpoints: Checkpoints,
    pub callbacks: Callbacks<M>,
    pub requests: Requests,
    pub adapter: Option<String>,
    pub total_steps: usize,
    /// Steps between evaluations; 0: at the end alone.
    pub eval_steps: usize,
    /// Steps between checkpoints; 0: none, but where the run is asked to end.
    pub save_steps: usize,
    /// Whether there is anything to evaluate on.
    pub evaluates: bool,
    /// The step of the newest checkpoint.
    pub saved: usize,
    pub losses: Losses,
    /// Who writes samples of text, and where they go.
    pub sampler: Option<(Sampler, SampleFile)>,
    pub ended: Option<Ended>,
}

/// The evaluations so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    best: Option<f64>,
    since_best: usize,
}

impl Losses {
    /// Takes a loss, and returns the lowest before it.
    pub fn add(&mut self, loss: f64) -> Option<f64> {
        let before = self.best;
        match before {
            Some(best) if loss.is_nan() || loss >= best => self.since_best += 1,
            _ => (self.best, self.since_best) = (Some(loss), 0),
        }
        before
    }
}

impl<M> Journal<M> {
    /// Whether an evaluation is due after `step`.
    pub fn evaluates_after(&self, step: usize) -> bool {
        self.evaluates && self.due_after(step)
    }

    /// Whether `step` is one after which the run is looked at.
    fn due_after(&self, step: usize) -> bool {
        let on_the_way = self.eval_steps > 0 && step.is_multiple_of(self.eval_steps);
        step > 0 && (on_the_way || step == self.total_steps)
    }
}

impl<M: CausalModel> Journal<M> {
    /// Writes the checkpoint of `step`, if there is none.
    fn save(&mut self, step: usize, model: &M, optim: &ModuleOptimizer) -> Result<()> {
        if self.saved == step && step > 0 {
            return Ok(());
        }
        let path = self.checkpoints.save(step, model, optim, self.adapter.as_deref())?;
        self.saved = step;
        self.callbacks.checkpoint(&Saved { step, path: &path, model });
        Ok(())
    }

    /// Lets the model write, where that is due.
    fn sample(&mut self, step: usize, model: &M) -> Result<()> {
        let Some((sampler, file)) = &self.sampler else { return Ok(()) };
        if !self.due_after(step) {
            return Ok(());
        }
        let samples = sampler.write(step, model)?;
        file.append(&samples)?;
        for sample in &samples {
            self.progress.note(&format!("step {step} · {}⟶{}", one_line(&sample.prompt), one_line(&sample.text)));
            self.callbacks.sample(sample);
        }
        Ok(())
    }

    /// Notes down why the run ends, if it does.
    fn end(&mut self, flow: Flow, step: usize) {
        let asked = self.requests.reason().map(Ended::ByRequest);
        let wanted = (flow == Flow::Stop && step < self.total_steps).then_some(Ended::ByCallback);
        self.ended = self.ended.or(asked).or(wanted);
    }
}

impl<M: CausalModel> Observer for Journal<M> {
    fn step(&mut self, report: &StepReport, model: &dyn Any, optim: &ModuleOptimizer) -> Result<Next> {
        let (step, model) = (report.step, own::<M>(model));
        self.progress.update(report);
        self.metrics.write(&Metrics::Train(report.clone()))?;
        let flow = self.callbacks.step(report);
        // Before the checkpoint: a run that is resumed from it has these samples already.
        self.sample(step, model)?;
        self.end(flow, step);
        let due = self.save_steps > 0 && (step.is_multiple_of(self.save_steps) || step == self.total_steps);
        if due || self.ended.is_some() {
            self.save(step, model, optim)?;
        }
        Ok(match self.ended {
            Some(_) => Next::End,
            None if self.evaluates_after(step) => Next::Evaluation,
            None => Next::Step,
        })
    }

    fn evaluating(&mut self, step: usize, model: &dyn Any, optim: Option<&ModuleOptimizer>) -> Result<Next> {
        self.end(Flow::Go, step);
        if self.ended.is_none() {
            return Ok(Next::Evaluation);
        }
        // The evaluation is made when the run is resumed.
        if let Some(optim) = optim {
            self.save(step, own::<M>(model), optim)?;
        }
        Ok(Next::End)
    }

    fn evaluated(&mut self, mut report: EvalReport, model: &dyn Any, optim: Option<&ModuleOptimizer>) -> Result<Next> {
        let model = own::<M>(model);
        for (name, metric) in &mut self.callbacks.metrics {
            report.own.insert(name.clone(), metric(model));
        }
        self.progress.evaluated(&report);
        self.metrics.write(&Metrics::Valid(report.clone()))?;
        let best = self.losses.add(report.loss);
        let since_best = self.losses.since_best;
        let flow = self.callbacks.evaluation(&Evaluated { report: &report, model, best, since_best });
        self.end(flow, report.step);
        if self.ended.is_none() {
            return Ok(Next::Step);
        }
        if let Some(optim) = optim {
            self.save(report.step, model, optim)?;
        }
        Ok(Next::End)
    }
}

/// Text on one line.
fn one_line(text: &str) -> String {
    text.replace('\n', " ⏎ ")
}

/// The model, which is one of the run's own.
fn own<M: 'static>(model: &dyn Any) -> &M {
    model.downcast_ref().unwrap_or_else(|| unreachable!("a run tells its own journal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_is_no_lower_is_counted_and_so_is_nan() {
        let mut losses = Losses::default();
        let counts = [2.0, 1.0, 1.0, f64::NAN, 0.5].map(|loss| (losses.add(loss), losses.since_best));
        assert_eq!(counts, [(None, 0), (Some(2.0), 0), (Some(1.0), 1), (Some(1.0), 2), (Some(1.0), 0)]);
    }
}
