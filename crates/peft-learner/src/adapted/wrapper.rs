//! The wrapper: a model and its adapter.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ParamId};
use burn::tensor::Device;
use burn::train::Interrupter;
use peft_burn::adalora::{self, KeptRank};
use peft_burn::{AdapterFiles, ParamAdapter, PeftConfig, PeftModel, TrainableReport};

use super::place::{InLayers, Place, parameters_of};
use super::shown::freeze_base;
use super::step_count::StepCount;
use super::watch::Watch;
use crate::error::{AdaLoraError, LearnerError, Result};
use crate::train::check_max_grad_norm;

/// A model with an adapter, to be trained in Burn's own loop.
///
/// `M` implements [`Module`], [`TrainStep`](burn::train::TrainStep) and [`InferenceStep`](burn::train::InferenceStep) as
/// for training without an adapter: its `step` computes its loss and calls `backward`. The wrapper has the same inputs and
/// outputs, so that data loaders and metrics stay as they are. What it adds:
///
/// * Everything but the adapter is frozen, as in PEFT. Burn's records and checkpoints of the wrapper hold the adapter
///   (with AdaLoRA's averages and masks), the number of steps done, and running statistics such as those of batch norm:
///   a resumed run continues as if it had not stopped.
/// * AdaLoRA: the gradient of its orthogonality term is added to that of each `step`, as if the term stood in the loss.
///   After the optimiser's step the triplets are scored, and the least are masked where the schedule says so. With
///   gradient accumulation Burn sums the gradients of the batches, and the term's with them.
/// * The norm of all gradients together is clipped, if asked for ([`Self::with_max_grad_norm`]).
/// * Where the adapter has dropout, or [`Self::with_seed`] asks for it, Burn's random generator is seeded for each `step` by
///   seed, step and batch, so that a resumed run draws what it would have drawn. Burn has one generator a backend: what
///   else draws in the process meanwhile, such as another run or the initialisation of a layer, disturbs it.
///
/// [`StepMetric`](super::StepMetric) shows AdaLoRA's budget and live triplets among Burn's metrics.
///
/// ```no_run
/// # use burn::module::Module;
/// # use burn::train::{InferenceStep, TrainStep};
/// use burn::lr_scheduler::constant::ConstantLr;
/// use burn::optim::AdamWConfig;
/// use burn::train::metric::{Adaptor, LossInput, LossMetric};
/// use burn::train::{Learner, LearnerModel, SupervisedTraining, TrainLoader, ValidLoader};
/// use peft_burn::{AdaLoraConfig, PeftModel};
/// use peft_learner::LearnerError;
/// use peft_learner::adapted::{Adapted, InLayers, StepMetric, optimizer_steps};
///
/// fn train<M>(net: M, train: TrainLoader<Adapted<M>>, valid: ValidLoader<Adapted<M>>) -> Result<M, LearnerError>
/// where
///     M: PeftModel + LearnerModel,
///     <M as TrainStep>::Output: Adaptor<LossInput>,
///     <M as InferenceStep>::Output: Adaptor<LossInput>,
/// {
///     let steps = optimizer_steps(&*train, 5, 1)?;
///     let config = AdaLoraConfig::new(12, 4).with_target_modules(["hidden"]).with_total_step(steps);
///     let net = Adapted::new(net, "default", config, 42)?.with_max_grad_norm(1.0);
///     let result = SupervisedTraining::new("runs/mine", train, valid)
///         .metrics((LossMetric::new(), StepMetric::rank_budget(&net), StepMetric::live_triplets(&net)))
///         .with_default_checkpointers()
///         .num_epochs(5)
///         .launch(Learner::new(net, AdamWConfig::new().init(), ConstantLr::new(1e-3)));
///     result.model.save_adapter("runs/mine/adapter")?;
///     result.model.into_model()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Adapted<M, P = InLayers> {
    pub(super) model: M,
    pub(super) place: P,
    pub(super) steps: StepCount,
    /// The base's parameters, which Burn's optimisers and records do not see.
    pub(super) hidden: Arc<BTreeSet<ParamId>>,
    /// Whether the adapter is AdaLoRA.
    pub(super) prunes: bool,
    /// 0 is off.
    pub(super) max_grad_norm: f64,
    /// Whether steps seed Burn's random generator.
    pub(super) draws: bool,
    pub(super) seed: u64,
    pub(super) watch: Watch,
    pub(super) warnings: Vec<String>,
}

impl<M: PeftModel> Adapted<M> {
    /// Adds a new adapter to `model`, whose layers take adapters ([`PeftLinear`](peft_burn::PeftLinear)), and wraps it.
    ///
    /// # Errors
    /// Those of [`PeftModel::add_adapter`], and AdaLoRA without its `total_step`, the number of optimiser steps of
    /// the run: see [`optimizer_steps`](super::optimizer_steps) and [`PeftConfig::with_total_step`].
    pub fn new(mut model: M, name: &str, config: impl Into<PeftConfig>, seed: u64) -> Result<Self> {
        let config = config.into();
        check_total_step(&config)?;
        let warnings = model.add_adapter(name, &config, seed)?;
        Ok(Self { warnings, seed, ..Self::of(model, name)? })
    }

    /// Wraps a model that has the adapter `name` already: active, and trained. Load a saved adapter to go on with as
    /// [`AdapterFiles::load_adapter`] does with `trainable`.
    ///
    /// # Errors
    /// An adapter that is not attached, not active or frozen, and AdaLoRA without its `total_step`.
    pub fn of(model: M, name: &str) -> Result<Self> {
        Self::wrap(model, InLayers::new(name))
    }
}

impl<M: Module> Adapted<M, ParamAdapter> {
    /// As [`Adapted::new`], for a model of plain [`nn::Linear`](burn::nn::Linear): see [`ParamAdapter::attach`] for what
    /// such an adapter can and cannot do.
    ///
    /// # Errors
    /// Those of [`ParamAdapter::attach`], and AdaLoRA without its `total_step`.
    pub fn on_parameters(model: M, config: impl Into<PeftConfig>, seed: u64) -> Result<Self> {
        let config = config.into();
        check_total_step(&config)?;
        let (model, adapter) = ParamAdapter::attach(model, &config, seed)?;
        let warnings = adapter.warnings().to_vec();
        Ok(Self { warnings, seed, ..Self::of_parameters(model, adapter)? })
    }

    /// Wraps a model that has `adapter` on its parameters, to be trained.
    ///
    /// # Errors
    /// An adapter that is not on `model` or is frozen, and AdaLoRA without its `total_step`.
    pub fn of_parameters(model: M, adapter: ParamAdapter) -> Result<Self> {
        Self::wrap(model, adapter)
    }
}

/// In training mode: Burn's loop moves a model to its device, and leaves its parameters untracked if they were.
fn in_training<M: Module>(module: M) -> M {
    if module.devices().iter().any(Device::is_autodiff) { module } else { module.train() }
}

impl<M: Module, P: Place<M>> Adapted<M, P> {
    fn wrap(model: M, place: P) -> Result<Self> {
        let name = place.name();
        let (config, trained, own) = place.read(&model, |layers| {
            let config = layers.adapter_config(name)?.clone();
            let active = layers.active_adapters().iter().any(|active| active == name);
            Ok((config, active && layers.trains_adapters(), parameters_of(layers, name)))
        })?;
        check_total_step(&config)?;
        if !trained {
            return Err(LearnerError::NotTrained(name.to_owned()));
        }
        let (model, hidden) = freeze_base(model, &own);
        Ok(Self {
            model: in_training(model),
            place: in_training(place),
            steps: StepCount::new(),
            hidden: Arc::new(hidden),
            prunes: config.prunes(),
            max_grad_norm: 0.0,
            draws: config.dropout() > 0.0,
            seed: 42,
            watch: Watch::default(),
            warnings: Vec::new(),
        })
    }

    /// Clips the norm of all gradients together to `max_grad_norm`, as PyTorch's `clip_grad_norm_` does; 0 is off, as
    /// without this call. Transformers' default is 1. With a number that is no bound (negative, NaN) no step is made, and
    /// [`Self::check`] says so.
    pub fn with_max_grad_norm(self, max_grad_norm: f64) -> Self {
        check_max_grad_norm(max_grad_norm).unwrap_or_else(|error| self.watch.fail(error));
        Self { max_grad_norm, ..self }
    }

    /// Seeds what is drawn at random in training also where the adapter has no dropout, for the model's own.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { draws: true, seed, ..self }
    }

    /// Ends the run when AdaLoRA's part of a step fails. `interrupter` is
    /// [`SupervisedTraining::interrupter`](burn::train::SupervisedTraining::interrupter)'s. Without it, the steps that
    /// remain leave the model as it is.
    pub fn with_interrupter(self, interrupter: Interrupter) -> Self {
        self.watch.stop_through(interrupter);
        self
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Optimiser steps done.
    pub fn steps(&self) -> usize {
        self.steps.get()
    }

    /// Notes for the user about the configuration.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The model, its training done.
    ///
    /// # Errors
    /// The error of a step: the steps after it have changed nothing.
    pub fn into_model(self) -> Result<M> {
        self.into_parts().map(|(model, _)| model)
    }

    /// The model, and where its adapter is: for a model of plain linear layers the [`ParamAdapter`].
    ///
    /// # Errors
    /// As [`Self::into_model`].
    pub fn into_parts(self) -> Result<(M, P)> {
        self.check()?;
        Ok((self.model, self.place))
    }

    /// Checks that no step failed. The steps after a failed one have changed nothing.
    ///
    /// # Errors
    /// The error of the first step that failed.
    pub fn check(&self) -> Result<()> {
        self.watch.error().map_or(Ok(()), |error| Err(LearnerError::Step(error)))
    }

    /// Writes the adapter as PEFT does.
    ///
    /// # Errors
    /// As [`Self::check`] and [`AdapterFiles::save_adapter`].
    pub fn save_adapter(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.check()?;
        Ok(self.place.read(&self.model, |layers| layers.save_adapter(self.place.name(), dir))?)
    }

    /// Trained and total numbers of parameters, worded as PEFT's `print_trainable_parameters`.
    ///
    /// # Errors
    /// None in practice: the adapter is on the model.
    pub fn trainable_parameters(&self) -> Result<TrainableReport> {
        Ok(self.place.read(&self.model, |layers| Ok(layers.trainable_parameters()))?)
    }

    /// The rank that each module has now, by AdaLoRA.
    ///
    /// # Errors
    /// An adapter of another method.
    pub fn kept_ranks(&self) -> Result<Vec<KeptRank>> {
        Ok(self.place.read(&self.model, |layers| adalora::kept_ranks(layers, self.place.name()))?)
    }
}

impl<M: Display, P> Display for Adapted<M, P> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.model.fmt(f)
    }
}

fn check_total_step(config: &PeftConfig) -> Result<()> {
    if config.prunes() && config.total_step().is_none() { Err(AdaLoraError::NoTotalStep.into()) } else { Ok(()) }
}
