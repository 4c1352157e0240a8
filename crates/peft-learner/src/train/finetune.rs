//! A run: everything it is made of, and how it goes from its checks to its report.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Device;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::LossMetric;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::{CustomLearningStrategy, InferenceStep, Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use llama_burn::{CausalModel, GenerateOptions, Text};
use peft_burn::adalora::kept_ranks;
use peft_burn::{AdapterFiles, PeftConfig, PeftModel, TrainableReport};

use crate::config::TrainingConfig;
use crate::data::{Batch, Example, Examples, Stream, StreamConfig, eval_batches};
use crate::error::{LearnerError, Problems, Result};
use crate::report::{
    EvalReport, Metrics, MetricsWriter, Progress, StepMetric, StepReport, read_metrics, truncate_after,
    write_loss_plot, write_rank_plot,
};
use crate::whole_file::write_whole;

use super::callbacks::{Callbacks, Evaluated, Flow, Saved};
use super::causal_lm::CausalLm;
use super::checkpoint::{Checkpoints, TrainerState};
use super::checks::{self, Found, Parts};
use super::contents;
use super::journal::{Ended, Journal, Losses};
use super::loader::{EvalLoader, StepLoader};
use super::loraplus::learning_rates;
use super::memory::keep_freed_memory;
use super::output_folder::{Existing, OutputFolder, check_output};
use super::replicas::{Replicas, strategy};
use super::run::{Observer, Rules, Run};
use super::samples::{Sample, SampleFile, Sampler};
use super::schedule::Schedule;
use super::settings;
use super::stop::{Reason, Requests, StopHandle};

/// A run of training: of one adapter of a model, or of the model itself.
///
/// [`run`](Self::run) checks everything before it writes anything. What it leaves in the run's folder: `metrics.jsonl`,
/// `loss.svg`, `config.toml`, `checkpoints/`, `adapter/`, and AdaLoRA's `ranks.svg`.
pub struct Finetune<M: CausalModel> {
    model: M,
    adapter: Option<String>,
    training: TrainingConfig,
    train: Option<Train>,
    valid: Vec<Example>,
    shuffle: bool,
    packing: Option<usize>,
    pad_id: u32,
    seed: u64,
    devices: Vec<Device>,
    strategy: Option<CustomLearningStrategy<CausalLm<M>>>,
    existing: Existing,
    dashboard: bool,
    signals: bool,
    stop: StopHandle,
    sampler: Option<Sampler>,
    settings: Option<toml::Table>,
    contents: BTreeMap<String, String>,
    callbacks: Callbacks<M>,
}

/// What is trained on.
enum Train {
    Examples(Examples),
    Stream(Stream),
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Optimiser steps done, those before this call included.
    pub steps: usize,
    /// The step that this call began after; above 0 when resumed.
    pub resumed_from: usize,
    /// Whether a callback ended the run before its last step.
    pub stopped_early: bool,
    /// Everything in `metrics.jsonl`.
    pub metrics: Vec<Metrics>,
    /// Trained and total parameters, as the run began.
    pub parameters: TrainableReport,
    /// The adapter's folder; `None` where the base itself is trained.
    pub adapter: Option<PathBuf>,
    /// AdaLoRA: the picture of the rank that each module kept.
    pub ranks: Option<PathBuf>,
    /// Settings that differ from those that a resumed run was begun with, and may.
    pub changed: Vec<String>,
    /// Wall-clock time of this call, in seconds.
    pub seconds: f64,
}

impl<M: CausalModel> fmt::Debug for Finetune<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { adapter, training, .. } = self;
        f.debug_struct("Finetune").field("adapter", adapter).field("training", training).finish_non_exhaustive()
    }
}

impl<M: CausalModel> Finetune<M> {
    /// Trains the adapter `adapter`, which is attached to `model`.
    pub fn new(model: M, adapter: impl Into<String>, training: TrainingConfig) -> Self {
        Self { adapter: Some(adapter.into()), ..Self::base(model, training) }
    }

    /// Trains the weights of `model` itself, which must be set trainable.
    pub fn base(model: M, training: TrainingConfig) -> Self {
        Self {
            model,
            adapter: None,
            training,
            train: None,
            valid: Vec::new(),
            shuffle: true,
            packing: None,
            pad_id: 0,
            seed: 42,
            devices: Vec::new(),
            strategy: None,
            existing: Existing::Refuse,
            dashboard: false,
            signals: false,
            stop: StopHandle::new(),
            sampler: None,
            settings: None,
            contents: BTreeMap::new(),
            callbacks: Callbacks::default(),
        }
    }

    /// The rows to train on: a vector, or any data set of Burn ([`Examples::new`]).
    pub fn train(mut self, examples: impl Into<Examples>) -> Self {
        self.train = Some(Train::Examples(examples.into()));
        self
    }

    /// The batches to train on, instead of rows: order, packing and padding are then the stream's own.
    pub fn stream(mut self, stream: Stream) -> Self {
        self.train = Some(Train::Stream(stream));
        self
    }

    /// The rows to evaluate on, every `eval_steps` steps and at the end. None: nothing is evaluated.
    pub fn valid(mut self, examples: impl Into<Vec<Example>>) -> Self {
        self.valid = examples.into();
        self
    }

    /// Whether rows come in a new order each epoch, as they do by default, or in their own.
    pub fn shuffle(mut self, shuffle: bool) -> Self {
        self.shuffle = shuffle;
        self
    }

    /// Packs several short rows into one of at most `max_length` tokens, without leaking into each other.
    pub fn packing(mut self, max_length: usize) -> Self {
        self.packing = Some(max_length);
        self
    }

    /// The token that fills up short rows; 0 by default. No result depends on it.
    pub fn pad_id(mut self, pad_id: u32) -> Self {
        self.pad_id = pad_id;
        self
    }

    /// Seeds the order of rows and dropout; 42 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Devices that each train on a part of every step's rows. None or one: where the model is.
    pub fn devices(mut self, devices: impl Into<Vec<Device>>) -> Self {
        self.devices = devices.into();
        self
    }

    /// Another strategy than Burn's own. It drives one replica for each of [`devices`](Self::devices), each on a thread of
    /// its own as Burn's distributed strategy does, and hands every one the sum of all their gradients.
    pub fn strategy(mut self, strategy: CustomLearningStrategy<CausalLm<M>>) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// What to do with a folder that holds a run already; it is refused by default.
    pub fn existing(mut self, existing: Existing) -> Self {
        self.existing = existing;
        self
    }

    /// Shows Burn's dashboard where stdout is a terminal and the device a single one; otherwise progress goes to stderr.
    pub fn dashboard(mut self, dashboard: bool) -> Self {
        self.dashboard = dashboard;
        self
    }

    /// Lets Ctrl-C and SIGTERM end the run: the first finishes the present step, writes a checkpoint and makes
    /// [`run`](Self::run) return [`LearnerError::Interrupted`]; a second one ends the process at once.
    pub fn stop_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// A handle that ends the run as a signal does.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// What `config.toml` in the run's folder says; a resumed run is compared with it. By default the seed and the training
    /// options.
    pub fn settings(mut self, settings: toml::Table) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Notes that `what`, such as `base`, has the contents with this digest; a run with others does not resume from the
    /// checkpoints of this one. Rows given to [`train`](Self::train) and [`valid`](Self::valid) are noted by themselves.
    pub fn contents(mut self, what: impl Into<String>, digest: impl Into<String>) -> Self {
        self.contents.insert(what.into(), digest.into());
        self
    }

    /// Tells `callback` of every step, and ends the run where it returns [`Flow::Stop`].
    pub fn on_step<F: Into<Flow>>(mut self, mut callback: impl FnMut(&StepReport) -> F + Send + 'static) -> Self {
        self.callbacks.step.push(Box::new(move |report| callback(report).into()));
        self
    }

    /// Tells `callback` of every evaluation, and ends the run where it returns [`Flow::Stop`].
    pub fn on_evaluation<F: Into<Flow>>(
        mut self,
        mut callback: impl FnMut(&Evaluated<'_, M>) -> F + Send + 'static,
    ) -> Self {
        self.callbacks.evaluation.push(Box::new(move |evaluated| callback(evaluated).into()));
        self
    }

    /// Tells `callback` of every checkpoint.
    pub fn on_checkpoint(mut self, callback: impl FnMut(&Saved<'_, M>) + Send + 'static) -> Self {
        self.callbacks.checkpoint.push(Box::new(callback));
        self
    }

    /// Lets the model continue `prompts` every `eval_steps` steps and at the end, as `options` say; the texts go to progress and
    /// to `samples.jsonl`. They end where `text`'s do.
    pub fn samples<P: Into<String>>(
        mut self,
        text: &Text,
        prompts: impl IntoIterator<Item = P>,
        options: GenerateOptions,
    ) -> Self {
        let prompts = prompts.into_iter().map(Into::into).collect();
        self.sampler = Some(Sampler::new(text.clone(), prompts, options));
        self
    }

    /// Tells `callback` of every text that the model writes.
    pub fn on_sample(mut self, callback: impl FnMut(&Sample) + Send + 'static) -> Self {
        self.callbacks.sample.push(Box::new(callback));
        self
    }

    /// Measures the model by `metric` at every evaluation; the value stands in `metrics.jsonl` under the key `name`.
    pub fn metric(mut self, name: impl Into<String>, metric: impl FnMut(&M) -> f64 + Send + 'static) -> Self {
        self.callbacks.metrics.push((name.into(), Box::new(metric)));
        self
    }

    /// Trains, writing into the folder `dir`, and returns the model in validation mode.
    ///
    /// # Errors
    /// Options, model, data and folder that do not go together, before anything is written; then a file that cannot be
    /// written, a loss that is not finite, and a run that was asked to end: the last checkpoint is kept, and named.
    pub fn run(mut self, dir: impl AsRef<Path>) -> Result<(M, Report)> {
        let (dir, started) = (dir.as_ref(), Instant::now());
        let stream = self.take_stream()?;
        let parts = self.devices.len().max(1);
        let total_steps = self.training.total_steps(stream.rows_per_epoch(), parts);
        let found = self.check(&stream, total_steps)?;
        check_output(dir, self.existing)?;
        let settings = self.settings.take().map_or_else(|| self.own_settings(), Ok)?;
        let saved = dir.join("config.toml");
        let checkpoints = self.checkpoints(dir, total_steps)?;
        let changed = match self.existing {
            Existing::Resume => {
                let before = checkpoints.latest_state()?;
                let known = before.as_ref().map(|state| state.contents.clone()).unwrap_or_default();
                let changed = if saved.exists() { settings::compare(&saved, &settings, &known)? } else { Vec::new() };
                if let Some(before) = before {
                    before.check(checkpoints.state(), found.pruning.is_some())?;
                }
                changed
            }
            _ => Vec::new(),
        };
        let text = toml::to_string_pretty(&settings)
            .map_err(|error| LearnerError::ConfigSyntax { file: saved, message: error.to_string() })?;
        self.model.set_gradient_checkpointing(self.training.gradient_checkpointing);
        let parameters = self.model.trainable_parameters();

        let folder = OutputFolder::claim(dir, self.existing)?;
        write_whole(folder.join("config.toml"), text.as_bytes())?;
        let adapter = self.adapter.clone();
        let explained = |error: LearnerError| match error {
            LearnerError::NotFinite { step, loss, grad_norm, .. } => {
                LearnerError::NotFinite { step, loss, grad_norm, last_good: checkpoints.latest() }
            }
            full if full.is_disk_full() => {
                LearnerError::DiskFull { dir: dir.to_owned(), source: Box::new(full), last: checkpoints.latest() }
            }
            other => other,
        };
        let written = self.launch(&folder, &checkpoints, stream, total_steps, found, &changed).and_then(|trained| {
            let (model, steps, resumed_from, stopped_early) = trained;
            let metrics = read_metrics(folder.join("metrics.jsonl"))?;
            write_loss_plot(folder.join("loss.svg"), "Loss", &metrics)?;
            let (adapter, ranks) = match &adapter {
                Some(name) => {
                    let place = folder.join("adapter");
                    model.save_adapter(name, &place)?;
                    (Some(place), draw_ranks(&model, name, &folder.join("ranks.svg"))?)
                }
                None => (None, None),
            };
            let seconds = started.elapsed().as_secs_f64();
            let report =
                Report { steps, resumed_from, stopped_early, metrics, parameters, adapter, ranks, changed, seconds };
            Ok((model, report))
        });
        written.map_err(explained)
    }

    /// The checkpoints in the folder `dir`, and what they note of this run.
    fn checkpoints(&self, dir: &Path, max_steps: usize) -> Result<Checkpoints> {
        let mut contents = self.contents.clone();
        if let (Some(Train::Examples(examples)), false) = (&self.train, contents.contains_key("data")) {
            contents.insert("data".to_owned(), contents::of_examples(examples.iter())?);
        }
        if !self.valid.is_empty() && !contents.contains_key("valid") {
            contents.insert("valid".to_owned(), contents::of_examples(self.valid.iter().cloned().map(Ok))?);
        }
        let state = TrainerState {
            global_step: 0,
            seed: self.seed,
            triplets: None,
            max_steps,
            contents,
            devices: self.devices.len().max(1),
        };
        Ok(Checkpoints::new(dir.join("checkpoints"), self.training.save_total_limit, state))
    }

    fn take_stream(&mut self) -> Result<Stream> {
        let training = &self.training;
        if let Some(Train::Examples(examples)) = &self.train {
            return Stream::new(
                examples.clone(),
                StreamConfig {
                    batch_size: training.per_device_train_batch_size,
                    accumulation: training.gradient_accumulation_steps * self.devices.len().max(1),
                    shuffle: self.shuffle,
                    group_by_length: training.group_by_length,
                    packing: self.packing.is_some(),
                    max_length: self.packing.unwrap_or(usize::MAX),
                    pad_id: self.pad_id,
                    seed: self.seed,
                },
            );
        }
        match self.train.take() {
            Some(Train::Stream(stream)) => Ok(stream),
            _ => Err(LearnerError::Stream("there are no rows to train on".to_owned())),
        }
    }

    fn check(&mut self, stream: &Stream, total_steps: usize) -> Result<Found> {
        let mut problems = Problems::default();
        for (at, (name, _)) in self.callbacks.metrics.iter().enumerate() {
            if EvalReport::KEYS.contains(&name.as_str()) || self.callbacks.metrics[..at].iter().any(|(n, _)| n == name)
            {
                problems.push(format!("the metric `{name}` has the name of another; give it one of its own"));
            }
        }
        if let Some(sampler) = &self.sampler {
            sampler.check(&self.model, &mut problems);
        }
        if !self.callbacks.sample.is_empty() && self.sampler.is_none() {
            problems.push("samples of text are asked for, and there are no prompts; give some, or leave out what is told of samples");
        }
        if !problems.is_empty() {
            return Err(LearnerError::Options(problems));
        }
        let parts = Parts {
            adapter: self.adapter.as_deref(),
            training: &self.training,
            stream,
            total_steps,
            devices: &self.devices,
            own_strategy: self.strategy.is_none(),
            evaluates: !self.valid.is_empty(),
            asks_for_evaluations: !self.callbacks.evaluation.is_empty() || !self.callbacks.metrics.is_empty(),
        };
        checks::check(&mut self.model, &parts)
    }

    /// What a program's run is begun with.
    fn own_settings(&self) -> Result<toml::Table> {
        let problem = |message: String| LearnerError::ConfigSyntax { file: "config.toml".into(), message };
        let training = toml::Table::try_from(&self.training).map_err(|error| problem(error.to_string()))?;
        let seed = i64::try_from(self.seed).map_err(|error| problem(format!("seed: {error}")))?;
        Ok(toml::Table::from_iter([("seed".to_owned(), seed.into()), ("training".to_owned(), training.into())]))
    }

    /// Runs Burn's loop. Returns the model, the steps done in all and before, and whether a callback ended it.
    fn launch(
        self,
        folder: &OutputFolder,
        checkpoints: &Checkpoints,
        stream: Stream,
        total_steps: usize,
        found: Found,
        notes: &[String],
    ) -> Result<(M, usize, usize, bool)> {
        keep_freed_memory();
        let Self { model, adapter, training, devices, seed, .. } = self;
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

        let batches: Vec<Batch> =
            eval_batches(&self.valid, training.per_device_train_batch_size, self.pad_id).collect();
        // The dashboard stops a run between any two replicas: the others would wait for ever.
        let dashboard = self.dashboard && replicas.count == 1 && std::io::stdout().is_terminal();
        let progress = match dashboard {
            // Burn's dashboard takes the whole terminal.
            true => Progress::to_writer(total_steps, done, Box::new(std::io::sink())),
            false => Progress::new(total_steps, done),
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
            for batch in &batches {
                if interrupter.should_stop() {
                    break;
                }
                InferenceStep::step(&lm, batch.clone());
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
            let valid = EvalLoader(Arc::new(batches));
            let mut supervised = SupervisedTraining::new(folder.join(""), Arc::new(loader), Arc::new(valid))
                .num_epochs(epochs)
                .grads_accumulation(training.gradient_accumulation_steps)
                .with_interrupter(interrupter)
                .with_application_logger(None)
                .with_metric_logger(InMemoryMetricLogger::default());
            supervised = match dashboard {
                true => {
                    let adalora = run.rules().pruning.is_some();
                    on_dashboard(supervised, &lm.model.device(), adalora, self.stop.interrupter())
                }
                false => supervised.renderer(Box::new(progress.clone())),
            };
            let strategy = match self.strategy {
                Some(custom) => Some(TrainingStrategy::Custom(custom)),
                None => strategy(&devices),
            };
            if let Some(strategy) = strategy {
                supervised = supervised.with_training_strategy(strategy);
            }
            let result = supervised.launch(Learner::new(lm, optim, scheduler));
            failed = result.error.map(|error| error.to_string());
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

/// Shows what a step comes to on Burn's dashboard. "Stop" there asks through `stop`, as a signal does: the step is finished.
fn on_dashboard<M: CausalModel>(
    supervised: SupervisedTraining<CausalLm<M>>,
    device: &Device,
    adalora: bool,
    stop: Interrupter,
) -> SupervisedTraining<CausalLm<M>> {
    // Burn's own metric of the loss reads every micro-batch from the device: it is for evaluations, which do so anyway.
    let supervised = supervised
        .metric_train_numeric(StepMetric::loss())
        .metric_valid_numeric(LossMetric::new())
        .metric_train_numeric(StepMetric::learning_rate())
        .metric_train_numeric(StepMetric::grad_norm())
        .metric_train_numeric(StepMetric::tokens_per_second())
        .metric_train_numeric(StepMetric::memory(device.clone()))
        .renderer(Box::new(TuiMetricsRendererWrapper::new(stop, None)));
    match adalora {
        true => supervised.metric_train_numeric(StepMetric::budget()).metric_train_numeric(StepMetric::live_triplets()),
        false => supervised,
    }
}

fn optimizer(training: &TrainingConfig) -> ModuleOptimizer {
    AdamWConfig::new()
        .with_beta_1(training.adam_beta1 as f32)
        .with_beta_2(training.adam_beta2 as f32)
        .with_epsilon(training.adam_epsilon as f32)
        .with_weight_decay(training.weight_decay as f32)
        .init()
}

/// AdaLoRA: draws the rank that each module kept.
fn draw_ranks<M: CausalModel>(model: &M, adapter: &str, path: &Path) -> Result<Option<PathBuf>> {
    if !matches!(model.adapter_config(adapter)?, PeftConfig::AdaLora(_)) {
        return Ok(None);
    }
    write_rank_plot(path, &kept_ranks(model, adapter)?)?;
    Ok(Some(path.to_owned()))
}
