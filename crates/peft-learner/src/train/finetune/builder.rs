//! Everything that a run is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use burn::train::CustomLearningStrategy;
use llama_burn::{CausalModel, GenerateOptions, Text};
use peft_burn::TrainableReport;

use crate::config::TrainingConfig;
use crate::data::{Examples, Stream};
use crate::report::{Metrics, StepReport};
use crate::train::callbacks::{Callbacks, Evaluated, Flow, Saved};
use crate::train::causal_lm::CausalLm;
use crate::train::output_folder::Existing;
use crate::train::samples::{Sample, Sampler};
use crate::train::stop::StopHandle;

/// A run of training: of one adapter of a model, or of the model itself.
///
/// [`run`](Self::run) checks everything before it writes anything. What it leaves in the run's folder: `metrics.jsonl`,
/// `loss.svg`, `config.toml`, `checkpoints/`, `adapter/`, and AdaLoRA's `ranks.svg`.
pub struct Finetune<M: CausalModel> {
    pub(super) model: M,
    pub(super) adapter: Option<String>,
    pub(super) training: TrainingConfig,
    pub(super) train: Option<Train>,
    pub(super) valid: Examples,
    pub(super) shuffle: Option<bool>,
    pub(super) packing: Option<usize>,
    pub(super) pad_id: u32,
    pub(super) seed: Option<u64>,
    pub(super) devices: Vec<Device>,
    pub(super) strategy: Option<CustomLearningStrategy<CausalLm<M>>>,
    pub(super) existing: Existing,
    pub(super) dashboard: bool,
    pub(super) signals: bool,
    pub(super) stop: StopHandle,
    pub(super) sampler: Option<Sampler>,
    pub(super) settings: Option<toml::Table>,
    pub(super) beside: Arc<BTreeMap<String, Vec<u8>>>,
    pub(super) contents: BTreeMap<String, String>,
    pub(super) callbacks: Callbacks<M>,
}

/// The training data.
pub(super) enum Train {
    Examples(Examples),
    Stream(Stream),
}

/// The results of a run.
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
    /// A resumed run: settings that were changed since it began, which are those that may be, in words.
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
            valid: Examples::default(),
            shuffle: None,
            packing: None,
            pad_id: 0,
            seed: None,
            devices: Vec::new(),
            strategy: None,
            existing: Existing::Refuse,
            dashboard: false,
            signals: false,
            stop: StopHandle::new(),
            sampler: None,
            settings: None,
            beside: Arc::default(),
            contents: BTreeMap::new(),
            callbacks: Callbacks::default(),
        }
    }

    /// The rows to train on: a vector, or any data set of Burn ([`Examples::new`]).
    pub fn train(mut self, examples: impl Into<Examples>) -> Self {
        self.train = Some(Train::Examples(examples.into()));
        self
    }

    /// The batches to train on, instead of rows: order, packing and padding are then the stream's own, and
    /// [`shuffle`](Self::shuffle), [`packing`](Self::packing) and a [`seed`](Self::seed) that is not the stream's are refused.
    pub fn stream(mut self, stream: Stream) -> Self {
        self.train = Some(Train::Stream(stream));
        self
    }

    /// The rows to evaluate on, every `eval_steps` steps and at the end. None: nothing is evaluated.
    pub fn valid(mut self, examples: impl Into<Examples>) -> Self {
        self.valid = examples.into();
        self
    }

    /// Whether rows come in a new order each epoch, as they do by default, or in their own.
    pub fn shuffle(mut self, shuffle: bool) -> Self {
        self.shuffle = Some(shuffle);
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
        self.seed = Some(seed);
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

    /// The treatment of a folder that holds a run already; it is refused by default.
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
    /// [`run`](Self::run) return [`LearnerError::Interrupted`](crate::LearnerError::Interrupted); a second one ends the process at once.
    pub fn stop_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// A handle that ends the run as a signal does.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// The contents of `config.toml` in the run's folder; a resumed run is compared with it. By default the seed and the
    /// training options.
    pub fn settings(mut self, settings: toml::Table) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Writes these files, by name, into the folder of each adapter that is saved: the tokenizer that it came with.
    pub fn beside_adapter(mut self, files: BTreeMap<String, Vec<u8>>) -> Self {
        self.beside = Arc::new(files);
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
}
