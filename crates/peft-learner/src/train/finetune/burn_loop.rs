//! A run in Burn's training loop.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::Device;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::LossMetric;
use burn::train::renderer::MetricsRenderer;
use burn::train::{InferenceStep, Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use llama_burn::CausalModel;

use super::builder::Finetune;
use crate::data::{EvalBatches, Stream};
use crate::error::{LearnerError, Result};
use crate::report::{Metrics, MetricsWriter, Progress, StepReportMetric, dashboard, read_metrics, truncate_after};
use crate::train::adam_w::optimizer;
use crate::train::causal_lm::CausalLm;
use crate::train::checkpoint::Checkpoints;
use crate::train::checks::Found;
use crate::train::journal::{Ended, Journal, Losses};
use crate::train::loader::{EvalLoader, StepLoader};
use crate::train::loraplus::learning_rates;
use crate::train::memory::keep_freed_memory;
use crate::train::observer::Observer;
use crate::train::output_folder::{Existing, OutputFolder};
use crate::train::replicas::{Replicas, strategy};
use crate::train::run::{Rules, Run};
use crate::train::samples::SampleFile;
use crate::train::schedule::Schedule;
use crate::train::stop::{Reason, Requests};

impl<M: CausalModel> Finetune<M> {
    /// Runs Burn's loop. Returns the model, the steps done in all and before, and whether a callback ended it.
    pub(super) fn launch(
        self,
        folder: &OutputFolder,
        checkpoints: &Checkpoints,
        stream: Stream,
        total_steps: usize,
        found: Found,
        notes: &[String],
    ) -> Result<(M, usize, usize, bool)> {
        keep_freed_memory();
        let seed = self.the_seed();
        let Self { model, adapter, training, devices, .. } = self;
        let replicas = Replicas::new(devices.len().max(1));
        checkpoints.clear_unfinished();
        let (mut model, mut optim, mut done) = (model.train(), optimizer(&training), 0);
        if self.existing == Existing::Resume
            && let Some((restored, optimizer, state)) =
                checkpoints.restore(model.clone(), optim.clone(), adapter.as_deref())?
        {
            (model, optim, done) = (restored.train(), optimizer, state.global_step);
        }
        let sampler = match self.sampler {
            Some(sampler) => Some((sampler, SampleFile::resume(folder.join("samples.jsonl"), done)?)),
            None => None,
        };
        let metrics_path = folder.join("metrics.jsonl");
        truncate_after(&metrics_path, done)?;
        let metrics = MetricsWriter::append(&metrics_path)?;
        let (mut losses, mut evaluated) = (Losses::default(), false);
        for line in read_metrics(&metrics_path)? {
            if let Metrics::Valid(report) = line {
                losses.add(report.loss);
                evaluated |= report.step == done;
            }
        }

        let batches = EvalBatches::new(&self.valid, training.per_device_train_batch_size, self.pad_id)?;
        // The dashboard stops a run between any two replicas: the others would wait for ever.
        let wanted = self.dashboard && replicas.count == 1;
        // "Stop" there asks as a signal does: the step is finished.
        let dashboard = wanted.then(|| dashboard(&self.stop.interrupter())).flatten();
        let progress = match dashboard {
            // Burn's dashboard takes the whole terminal.
            Some(_) => Progress::to_writer(total_steps, done, Box::new(std::io::sink())),
            None => Progress::new(total_steps, done),
        };
        notes.iter().for_each(|note| progress.note(note));
        let journal = Arc::new(Mutex::new(Journal {
            metrics,
            progress: progress.clone(),
            checkpoints: checkpoints.clone(),
            callbacks: self.callbacks,
            requests: Requests::new(self.stop.clone(), self.signals)?,
            adapter: adapter.clone(),
            total_steps,
            eval_steps: training.eval_steps,
            save_steps: training.save_steps,
            evaluates: !batches.is_empty(),
            saved: done,
            losses,
            sampler,
            ended: None,
        }));
        let journal_of = || journal.lock().unwrap_or_else(PoisonError::into_inner);
        let interrupter = Interrupter::new();
        let rules = Rules {
            seed,
            max_grad_norm: training.max_grad_norm,
            dropout: found.dropout,
            pruning: found.pruning,
            replicas: replicas.clone(),
            eval_batches: batches.len(),
        };
        let observer: Arc<Mutex<dyn Observer>> = journal.clone();
        let run = Run::new(rules, done, interrupter.clone(), Some(observer));
        let mut lm = CausalLm { model, run: run.clone() };
        if !evaluated && journal_of().evaluates_after(done) {
            // The run was ended between the step and its evaluation.
            let lm = lm.clone().valid();
            for batch in batches.iter() {
                if interrupter.should_stop() {
                    break;
                }
                InferenceStep::step(&lm, batch?);
            }
        }
        let loader = StepLoader {
            stream: Arc::new(stream),
            done: run.counter(),
            total_steps,
            eval_steps: if training.eval_steps == 0 { total_steps.max(1) } else { training.eval_steps },
            accumulation: training.gradient_accumulation_steps,
            replica: 0,
            replicas: replicas.count,
        };
        let epochs = loader.epochs(done);
        let mut failed = None;
        if epochs > 0 && !interrupter.should_stop() && !run.failed() {
            let schedule = Schedule::new(&training, total_steps);
            let scheduler = learning_rates(&training, &lm.model, adapter.as_deref(), schedule, done)?;
            let valid = EvalLoader(batches);
            let mut supervised = SupervisedTraining::new(folder.join(""), Arc::new(loader), Arc::new(valid))
                .num_epochs(epochs)
                .grads_accumulation(training.gradient_accumulation_steps)
                .with_interrupter(interrupter)
                .with_application_logger(None)
                .with_metric_logger(InMemoryMetricLogger::default());
            supervised = match dashboard {
                Some(dashboard) => {
                    let adalora = run.rules().pruning.is_some();
                    on_dashboard(supervised, &lm.model.device(), adalora, dashboard)
                }
                None => supervised.renderer(Box::new(progress.clone())),
            };
            let strategy = match self.strategy {
                Some(custom) => Some(TrainingStrategy::Custom(custom)),
                None => strategy(&devices),
            };
            if let Some(strategy) = strategy {
                supervised = supervised.with_training_strategy(strategy);
            }
            let result = supervised.launch(Learner::new(lm, optim, scheduler));
            failed = result.error;
            lm = result.model;
        }
        progress.finish();
        let steps = run.steps_done();
        if let Some(error) = run.take_error() {
            return Err(error);
        }
        if let Some(error) = failed {
            return Err(LearnerError::Training(error));
        }
        let ended = journal_of().ended;
        let signal = match ended {
            Some(Ended::ByCallback) => return Ok((lm.model.valid(), steps, done, true)),
            Some(Ended::ByRequest(Reason::Signal(signal))) => Some(signal),
            Some(Ended::ByRequest(Reason::Asked)) => None,
            None if steps < total_steps => None,
            None => return Ok((lm.model.valid(), steps, done, false)),
        };
        Err(LearnerError::Interrupted { step: steps, checkpoint: checkpoints.latest(), signal })
    }
}

/// Shows what a step comes to on Burn's dashboard.
fn on_dashboard<M: CausalModel>(
    supervised: SupervisedTraining<CausalLm<M>>,
    device: &Device,
    adalora: bool,
    dashboard: Box<dyn MetricsRenderer>,
) -> SupervisedTraining<CausalLm<M>> {
    // Burn's own metric of the loss reads every micro-batch from the device: it is for evaluations, which do so anyway.
    let supervised = supervised
        .metric_train_numeric(StepReportMetric::loss())
        .metric_valid_numeric(LossMetric::new())
        .metric_train_numeric(StepReportMetric::learning_rate())
        .metric_train_numeric(StepReportMetric::grad_norm())
        .metric_train_numeric(StepReportMetric::tokens_per_second())
        .metric_train_numeric(StepReportMetric::memory(device.clone()))
        .renderer(dashboard);
    match adalora {
        true => supervised
            .metric_train_numeric(StepReportMetric::budget())
            .metric_train_numeric(StepReportMetric::live_triplets()),
        false => supervised,
    }
}
