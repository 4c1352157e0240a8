//! One optimiser step of a causal language model, as Burn's training loop calls it.

use std::sync::{Arc, OnceLock};

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Tensor};
use burn::train::metric::{Adaptor, LossInput};
use burn::train::{InferenceStep, Interrupter, ItemLazy, TrainOutput, TrainStep};
use llama_burn::CausalModel;

use super::adalora::{self, Allocated};
use super::adam_w;
use super::checks;
use super::clip::{check_max_grad_norm, measure, scale};
use super::loss::{batch_loss, input};
use super::replicas::Replicas;
use super::run::{Rules, Run};
use super::seeds::mix;
use crate::data::Batch;
use crate::error::{LearnerError, Result};
use crate::report::{StepOf, StepReport};

/// A causal language model in training: what Burn's `Learner` holds.
///
/// A step clips the global norm of the gradients and does AdaLoRA's part. Metrics of Burn's see the loss, and those of
/// [`report`](crate::report) the rest of a [`StepReport`].
#[derive(Module, Debug)]
pub struct CausalLm<M: Module> {
    /// The model with its adapters.
    pub model: M,
    #[module(skip)]
    pub(crate) run: Run,
}

/// How a [`CausalLm`] of one's own training loop takes its steps.
///
/// ```
/// use peft_learner::train::StepOptions;
/// let options = StepOptions::new(100).with_max_grad_norm(0.5).with_gradient_checkpointing(true);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    /// Optimiser steps of the whole run: AdaLoRA's `total_step`.
    pub total_steps: usize,
    /// Seeds dropout: a function of seed, step and micro-batch.
    pub seed: u64,
    /// Bound on the norm of all gradients together; 0 is off.
    pub max_grad_norm: f64,
    /// Whether decoder layers run again in backward instead of keeping what it needs.
    pub gradient_checkpointing: bool,
    /// Whether AdaLoRA's pruned triplets leave memory after the last mask.
    pub shrink_after_pruning: bool,
}

impl StepOptions {
    /// Transformers' defaults for a run of `total_steps` optimiser steps: the norm is clipped to 1.
    pub fn new(total_steps: usize) -> Self {
        Self { total_steps, seed: 42, max_grad_norm: 1.0, gradient_checkpointing: false, shrink_after_pruning: false }
    }
}

peft_burn::setters!(StepOptions {
    /// Seeds dropout.
    with_seed(seed: u64) { seed: seed }
    /// Bounds the norm of all gradients together; 0 is off.
    with_max_grad_norm(norm: f64) { max_grad_norm: norm }
    /// Runs decoder layers again in backward, or keeps what it needs.
    with_gradient_checkpointing(on: bool) { gradient_checkpointing: on }
    /// Takes AdaLoRA's pruned triplets out of memory after the last mask, or not.
    with_shrink_after_pruning(on: bool) { shrink_after_pruning: on }
});

impl<M: CausalModel> CausalLm<M> {
    /// The adapter `adapter` of `model` in training, for a training loop of one's own on one device.
    ///
    /// A step whose loss or gradient is not finite is not applied, and neither is one whose micro-batches were made for
    /// another number of them a step than the loop accumulates (`SupervisedTraining::grads_accumulation`);
    /// [`CausalLm::error`] then says so, and `interrupter`, which belongs into the loop
    /// (`SupervisedTraining::with_interrupter`), ends it.
    ///
    /// # Errors
    /// A `max_grad_norm` that is negative or NaN, an adapter that is not attached or is frozen, dropout with gradient checkpointing, and phases of AdaLoRA that do
    /// not fit the run.
    pub fn new(model: M, adapter: &str, options: &StepOptions, interrupter: Interrupter) -> Result<Self> {
        let StepOptions { total_steps, seed, max_grad_norm, gradient_checkpointing, shrink_after_pruning } = *options;
        let mut model = model;
        check_max_grad_norm(max_grad_norm)?;
        let dropout = checks::dropout(&model, gradient_checkpointing)?;
        checks::trained(&model, adapter)?;
        let pruning = adalora::plan(&mut model, Some(adapter), total_steps, shrink_after_pruning)?;
        model.set_gradient_checkpointing(gradient_checkpointing);
        let rules =
            Rules { seed, max_grad_norm, dropout: dropout > 0.0, pruning, replicas: Replicas::new(1), eval_batches: 0 };
        Ok(Self { model: model.train(), run: Run::new(rules, 0, interrupter, None) })
    }

    /// The error that ended the training early; `None` after the first call that returns it.
    pub fn error(&self) -> Option<LearnerError> {
        self.run.take_error()
    }
}

/// A micro-batch, as Burn's metrics see it.
#[derive(Debug)]
pub struct LmOutput {
    /// The loss, as a mean over target tokens: `[1]`.
    pub loss: Tensor<1>,
    /// The results of the optimiser step that the micro-batch is a part of, once it is made.
    pub step: Arc<OnceLock<StepReport>>,
}

impl ItemLazy for LmOutput {
    fn sync(self) -> std::result::Result<Self, burn::tensor::ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<LossInput> for LmOutput {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.loss.clone())
    }
}

impl Adaptor<StepOf> for LmOutput {
    fn adapt(&self) -> StepOf {
        StepOf(self.step.clone())
    }
}

impl<M: CausalModel> TrainStep for CausalLm<M> {
    type Input = Batch;
    type Output = LmOutput;

    fn step(&self, batch: Batch) -> TrainOutput<LmOutput> {
        let device = self.model.device();
        let rules = self.run.rules();
        // Dropout is a function of seed, step and micro-batch: a resumed run draws what an uninterrupted one does.
        // Burn has one generator a backend: two runs with dropout in one process, and two replicas, disturb each other.
        if rules.dropout {
            device.seed(mix(rules.seed, self.run.steps_done() as u64, batch.micro as u64));
        }
        self.run.begin_batch(&batch);
        let mut loss = batch_loss(&self.model, &batch);
        let value = loss.clone().without_autodiff();
        if rules.replicas.count > 1 && !loss.is_tracked() {
            // Every replica goes backward: the others wait for its share of the gradients, be it zero.
            let nothing = self.model.hidden(&input(&batch, &device), None).sum().cast(DType::F32);
            loss = loss + nothing.mul_scalar(0.0);
        }
        if let Some(pruning) = rules.pruning.as_ref().filter(|_| batch.micro == 0 && self.run.lacks_orthogonal()) {
            match pruning.orthogonal(&self.model) {
                Ok(orthogonal) => {
                    self.run.add_orthogonal(orthogonal.clone().without_autodiff());
                    loss = loss + orthogonal;
                }
                Err(error) => self.run.fail(error),
            }
        }
        let grads =
            if loss.is_tracked() { GradientsParams::from_grads(loss.backward(), self) } else { GradientsParams::new() };
        let step = self.run.add_loss(batch.micro, value.clone());
        TrainOutput { grads, item: LmOutput { loss: mean(value, &batch), step } }
    }

    fn optimize(self, optim: &mut ModuleOptimizer, lr: ModuleLearningRate, grads: GradientsParams) -> Self {
        let run = self.run.clone();
        let replicas = &run.rules().replicas;
        // Read before the replicas meet: the one that is done first closes the step, and the others would see the next one.
        let (step, learning_rate) = (run.steps_done() + 1, lr.base());
        // All micro-batches of the step are in once every replica is here, and all replicas know what failed in them.
        replicas.meet();
        run.check_step();
        let failed = run.failed();
        replicas.meet();
        let before = self.clone();
        let applied = (!failed).then(|| self.apply(optim, lr, grads, step));
        // Here and nowhere else one of them reads, writes and ends the run, while no other can begin another step.
        if replicas.meet() {
            if let Some((next, norm, allocated)) = applied.as_ref().filter(|_| !run.failed()) {
                let live = allocated.as_ref().map(|allocated| allocated.live.clone());
                if let Some(report) = run.read(step, learning_rate, norm.clone(), live) {
                    let budget = allocated.as_ref().map(|allocated| allocated.budget);
                    run.close(StepReport { budget, ..report }, &next.model, optim);
                }
            }
            run.stop_if_failed();
        }
        replicas.meet();
        match applied {
            Some((next, ..)) if run.steps_done() == step => next,
            _ => before,
        }
    }
}

impl<M: CausalModel> CausalLm<M> {
    /// Clips, lets the optimiser make the step, and does AdaLoRA's part. With the norm from before clipping.
    fn apply(
        self,
        optim: &mut ModuleOptimizer,
        lr: ModuleLearningRate,
        grads: GradientsParams,
        step: usize,
    ) -> (Self, Tensor<1>, Option<Allocated>) {
        let run = self.run.clone();
        let (norm, factor) = measure(&self, &grads, run.rules().max_grad_norm);
        let Some(pruning) = &run.rules().pruning else {
            return (adam_w::step(optim, lr, self, grads, factor), norm, None);
        };
        let kept = pruning.keep(&self.model, &grads).map(|mut kept| {
            if let Some(factor) = &factor {
                scale(&self, &mut kept, factor);
            }
            kept
        });
        let mut next = adam_w::step(optim, lr, self, grads, factor);
        let allocated =
            kept.and_then(|kept| pruning.allocate(&mut next.model, optim, &kept, step, |mask| run.agree(mask)));
        let allocated = allocated.map_err(|error| run.fail(error)).ok();
        (next, norm, allocated)
    }
}

impl<M: CausalModel> InferenceStep for CausalLm<M> {
    type Input = Batch;
    type Output = LmOutput;

    fn step(&self, batch: Batch) -> LmOutput {
        let loss = batch_loss(&self.model, &batch);
        self.run.evaluate(&self.model, || loss.clone().into_scalar::<f64>(), batch.num_targets());
        LmOutput { loss: mean(loss, &batch), step: Arc::default() }
    }
}

/// The batch's own mean, from its share of its step's.
fn mean(loss: Tensor<1>, batch: &Batch) -> Tensor<1> {
    loss.div_scalar(batch.num_targets().max(1) as f64 / batch.step_targets.max(1) as f64)
}
