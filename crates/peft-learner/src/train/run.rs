//! The state that the copies of a model in Burn's loop share.
//!
//! Burn hands the model to `step`, `optimize` and `valid` by reference or by value, on one thread for each device, and
//! gives nothing else along: what a step leaves for the next lies here, behind one lock.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use burn::optim::ModuleOptimizer;
use burn::tensor::{DType, Tensor};
use burn::train::Interrupter;
use peft_burn::adalora::RankMask;

use super::adalora::Pruning;
use super::observer::{Next, Observer};
use super::replicas::Replicas;
use crate::data::Batch;
use crate::error::{LearnerError, Result};
use crate::report::{EvalReport, StepReport};

/// The settings of every step. They do not change.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Seeds dropout.
    pub seed: u64,
    /// Bound on the norm of all gradients together; 0: off.
    pub max_grad_norm: f64,
    /// Whether anything is drawn at random in a step.
    pub dropout: bool,
    /// AdaLoRA's part, if the adapter is one.
    pub pruning: Option<Pruning>,
    /// Where the replicas wait for each other.
    pub replicas: Replicas,
    /// Batches of an evaluation; 0 where nobody is told of evaluations.
    pub eval_batches: usize,
}

/// The values that a step gathers, and leaves for the next.
struct Ledger {
    /// The loss of each micro-batch of the present step so far, without any regulariser, on the device.
    loss: BTreeMap<usize, Tensor<1>>,
    /// The present step's regulariser, on the device.
    orthogonal: Option<Tensor<1>>,
    tokens: usize,
    /// The targets of the present step's micro-batches so far, and how many they were made to be.
    targets: (usize, usize),
    started: Instant,
    /// The results of the present step, once they are there, for those who hold one of its outputs.
    report: Arc<OnceLock<StepReport>>,
    /// AdaLoRA: the mask that the replicas apply in the present step.
    mask: Option<RankMask>,
    /// The present evaluation: batches done, loss and targets so far.
    evaluation: (usize, f64, usize),
    /// The optimiser between the step before an evaluation and the one after it.
    resting: Option<ModuleOptimizer>,
    /// The reason why the run ended early.
    error: Option<LearnerError>,
}

struct Shared {
    rules: Rules,
    /// Optimiser steps done.
    step: Arc<AtomicUsize>,
    interrupter: Interrupter,
    ledger: Mutex<Ledger>,
    observer: Option<Arc<Mutex<dyn Observer>>>,
}

/// A handle to it.
#[derive(Clone)]
pub(crate) struct Run(Arc<Shared>);

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("rules", &self.0.rules).finish_non_exhaustive()
    }
}

impl Run {
    /// A run that has `done` steps behind it. `interrupter` is what stops Burn's loop.
    pub fn new(
        rules: Rules,
        done: usize,
        interrupter: Interrupter,
        observer: Option<Arc<Mutex<dyn Observer>>>,
    ) -> Self {
        let ledger = Ledger {
            loss: BTreeMap::new(),
            orthogonal: None,
            tokens: 0,
            targets: (0, 0),
            started: Instant::now(),
            report: Arc::default(),
            mask: None,
            evaluation: (0, 0.0, 0),
            resting: None,
            error: None,
        };
        let step = Arc::new(AtomicUsize::new(done));
        Self(Arc::new(Shared { rules, step, interrupter, ledger: Mutex::new(ledger), observer }))
    }

    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// Optimiser steps done.
    pub fn steps_done(&self) -> usize {
        self.0.step.load(Ordering::SeqCst)
    }

    /// The same number, for others who follow it.
    pub fn counter(&self) -> Arc<AtomicUsize> {
        self.0.step.clone()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the run with `error` at the end of its step; what was saved stays.
    pub fn fail(&self, error: LearnerError) {
        self.ledger().error.get_or_insert(error);
    }

    /// Whether something ended the run.
    pub fn failed(&self) -> bool {
        self.ledger().error.is_some()
    }

    /// The reason of its end, once.
    pub fn take_error(&self) -> Option<LearnerError> {
        self.ledger().error.take()
    }

    /// A micro-batch begins.
    pub fn begin_batch(&self, batch: &Batch) {
        let mut ledger = self.ledger();
        ledger.tokens += batch.tokens();
        ledger.targets = (ledger.targets.0 + batch.num_targets(), batch.step_targets);
        ledger.resting = None;
    }

    /// Checks that the micro-batches of the present step are those that were made for one step: else its loss would not be
    /// the mean over its targets.
    pub fn check_step(&self) {
        let mut ledger = self.ledger();
        let (found, made_for) = ledger.targets;
        if found != made_for {
            ledger.error.get_or_insert(LearnerError::Accumulation { found, made_for });
        }
    }

    /// Takes the loss of micro-batch `micro` to the step, and returns where the step's report will be.
    pub fn add_loss(&self, micro: usize, loss: Tensor<1>) -> Arc<OnceLock<StepReport>> {
        let mut ledger = self.ledger();
        let sum = match ledger.loss.remove(&micro) {
            Some(other) => other + loss,
            None => loss,
        };
        ledger.loss.insert(micro, sum);
        ledger.report.clone()
    }

    /// Whether the present step has no regulariser yet. It is of the step and not of its micro-batches: one brings it.
    pub fn lacks_orthogonal(&self) -> bool {
        self.ledger().orthogonal.is_none()
    }

    pub fn add_orthogonal(&self, term: Tensor<1>) {
        self.ledger().orthogonal = Some(term);
    }

    /// The mask that all replicas apply: that of one of them. Equal gradients make equal masks, but GPUs of two models may
    /// round differently, and one triplet pruned on one replica alone would part them for good.
    pub fn agree(&self, own: RankMask) -> RankMask {
        let replicas = &self.0.rules.replicas;
        if replicas.meet() {
            self.ledger().mask = Some(own.clone());
        }
        replicas.meet();
        self.ledger().mask.clone().unwrap_or(own)
    }

    /// Reads what the step came to from the device, in one transfer. Not finite is an error.
    pub fn read(
        &self,
        step: usize,
        learning_rate: f64,
        norm: Tensor<1>,
        live: Option<Tensor<1>>,
    ) -> Option<StepReport> {
        let mut ledger = self.ledger();
        let device = norm.device();
        let here = |part: Tensor<1>| part.to_device(&device);
        let none = || Tensor::zeros([1], (&device, DType::F32));
        let task = std::mem::take(&mut ledger.loss).into_values().map(here).reduce(|a, b| a + b);
        let pruned = live.is_some();
        let mut parts = vec![task.unwrap_or_else(none), norm.clone()];
        if let Some(live) = live {
            let orthogonal = ledger.orthogonal.take().map_or_else(none, here);
            parts.extend([orthogonal, here(live)]);
        }
        let numbers: Vec<f64> = Tensor::cat(parts, 0).into_data().iter::<f64>().collect();
        let (task, grad_norm) = (numbers[0], numbers[1]);
        let orthogonal = numbers.get(2).copied();
        let loss = task + orthogonal.unwrap_or_default();
        if !(loss.is_finite() && grad_norm.is_finite()) {
            ledger.error.get_or_insert(LearnerError::NotFinite { step, loss, grad_norm, last_good: None });
            return None;
        }
        let seconds = ledger.started.elapsed().as_secs_f64();
        let tokens = std::mem::take(&mut ledger.tokens);
        ledger.targets = (0, 0);
        Some(StepReport {
            step,
            loss,
            learning_rate,
            grad_norm,
            tokens,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            task_loss: pruned.then_some(task),
            orthogonal_loss: orthogonal,
            budget: None,
            live_triplets: numbers.get(3).map(|live| *live as usize),
        })
    }

    /// Step `report.step` is done: tells the observer, and stops Burn's loop where it says so.
    pub fn close(&self, report: StepReport, model: &dyn Any, optim: &ModuleOptimizer) {
        self.0.step.store(report.step, Ordering::SeqCst);
        let told = self.observer(|observer| observer.step(&report, model, optim));
        let mut ledger = self.ledger();
        let _ = std::mem::take(&mut ledger.report).set(report);
        ledger.resting = (told == Some(Next::Evaluation)).then(|| optim.clone());
        ledger.started = Instant::now();
        drop(ledger);
        if told == Some(Next::End) {
            self.0.interrupter.stop(None);
        }
    }

    /// Stops Burn's loop if an error ended the run.
    pub fn stop_if_failed(&self) {
        if let Some(error) = &self.ledger().error {
            self.0.interrupter.stop(Some(&error.to_string()));
        }
    }

    /// Takes the loss of a batch of an evaluation, and tells the observer after the last one.
    pub fn evaluate(&self, model: &dyn Any, loss: impl FnOnce() -> f64, targets: usize) {
        if self.0.rules.eval_batches == 0 {
            return;
        }
        let step = self.steps_done();
        let (report, optim) = {
            let mut ledger = self.ledger();
            ledger.evaluation.0 += 1;
            ledger.evaluation.1 += loss();
            ledger.evaluation.2 += targets;
            let whole = ledger.evaluation.0 >= self.0.rules.eval_batches;
            let report = whole.then(|| {
                let (_, loss, tokens) = std::mem::take(&mut ledger.evaluation);
                EvalReport { step, loss, perplexity: loss.exp(), tokens, ..EvalReport::default() }
            });
            (report, ledger.resting.clone())
        };
        let next = self.observer(|observer| match report {
            Some(report) => observer.evaluated(report, model, optim.as_ref()),
            None => observer.evaluating(step, model, optim.as_ref()),
        });
        self.ledger().started = Instant::now();
        // One replica evaluates, and the others would wait for it in their next step: that step is where all of them end.
        if (next == Some(Next::End) || self.failed()) && self.0.rules.replicas.count == 1 {
            self.0.interrupter.stop(None);
        }
    }

    /// The observer's answer; `None` where there is none, or an error ended the run.
    fn observer(&self, tell: impl FnOnce(&mut dyn Observer) -> Result<Next>) -> Option<Next> {
        let observer = self.0.observer.as_ref()?;
        let told = tell(&mut *observer.lock().unwrap_or_else(PoisonError::into_inner));
        told.map_err(|error| self.fail(error)).ok()
    }
}
