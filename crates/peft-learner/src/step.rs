//! One optimiser step, as Burn's training loop calls it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn::train::metric::{Adaptor, LossInput};
use burn::train::{InferenceStep, Interrupter, ItemLazy, TrainOutput, TrainStep};
use llama_burn::{AttentionMask, Input, Llama};
use peft_burn::adalora::RankMask;

use crate::adalora::{Allocated, Pruning};
use crate::checkpoint::Checkpoints;
use crate::data::Batch;
use crate::error::{LearnerError, Result};
use crate::loss::cross_entropy;
use crate::metrics::{EvalReport, Metrics, MetricsWriter, StepReport};
use crate::progress::Progress;
use crate::replicas::Replicas;
use crate::schedule::Schedule;

/// What a step needs to know of its run, and leaves behind for the next.
pub(crate) struct RunState {
    /// Optimiser steps done.
    pub step: usize,
    pub total_steps: usize,
    pub seed: u64,
    pub schedule: Schedule,
    pub learning_rate: f64,
    pub max_grad_norm: f64,
    /// Whether anything is drawn at random in a step.
    pub dropout: bool,
    pub save_steps: usize,
    pub metrics: MetricsWriter,
    pub progress: Progress,
    pub checkpoints: Checkpoints,
    pub interrupter: Interrupter,
    pub replicas: Replicas,
    /// The loss of each micro-batch of the present step so far, without any regulariser, on the device.
    pub loss: BTreeMap<usize, Tensor<1>>,
    /// The present step's regulariser, on the device, by the micro-batch that brought it.
    pub orthogonal: BTreeMap<usize, Tensor<1>>,
    /// What they came to, once all are in.
    pub numbers: Numbers,
    /// AdaLoRA: the mask that the replicas apply in the present step.
    pub mask: Option<RankMask>,
    pub tokens: usize,
    pub started: Instant,
    /// The present evaluation: batches left, loss so far.
    pub evaluation: Evaluation,
    /// What ended the run early.
    pub error: Option<LearnerError>,
    /// The trained adapter; `None` when the base is.
    pub adapter: Option<String>,
    /// What is done for it, if it is AdaLoRA.
    pub pruning: Option<Pruning>,
}

/// What the host reads of a step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbers {
    pub task: f64,
    pub orthogonal: f64,
    pub grad_norm: f64,
}

/// A running evaluation.
#[derive(Default)]
pub(crate) struct Evaluation {
    pub batches: usize,
    pub done: usize,
    pub loss: f64,
    pub targets: usize,
}

/// A handle to the state that Burn's copies of the model share.
#[derive(Clone)]
pub(crate) struct Run(Arc<Mutex<RunState>>);

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Run")
    }
}

impl Run {
    pub fn new(state: RunState) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn state(&self) -> MutexGuard<'_, RunState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mask that all replicas apply: the leading one's. Equal gradients make equal masks, but GPUs of two models may
    /// round differently, and one triplet pruned on one replica alone would part them for good.
    fn agree(&self, own: RankMask, leads: bool) -> RankMask {
        let replicas = self.state().replicas.clone();
        if leads {
            self.state().mask = Some(own.clone());
        }
        replicas.meet();
        self.state().mask.clone().unwrap_or(own)
    }
}

impl RunState {
    /// Ends the run with `error`, at the end of its step; what was saved stays.
    fn fail(&mut self, error: LearnerError) {
        self.error.get_or_insert(error);
    }
}

/// A Llama in training: Burn's `Learner` holds this.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// The model with its adapters.
    pub model: Llama,
    #[module(skip)]
    pub(crate) run: Run,
}

/// What Burn's metrics see of a step.
#[derive(Debug)]
pub struct LmOutput {
    /// The loss, as a mean over target tokens.
    pub loss: Tensor<1>,
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

/// The model's input for a batch.
pub fn input(batch: &Batch, device: &Device) -> Input {
    let ids = Tensor::from_data(TensorData::new(batch.input_ids.clone(), [batch.batch, batch.seq]), device);
    // Padding is on the right, where causal attention hides it from everything that has a target.
    match (&batch.segments, &batch.positions) {
        (Some(segments), Some(positions)) => {
            let rows = |v: &[i32]| v.chunks(batch.seq).map(<[i32]>::to_vec).collect::<Vec<_>>();
            let positions = positions.chunks(batch.seq).map(|r| r.iter().map(|&p| p as usize).collect()).collect();
            Input::new(ids).with_mask(AttentionMask::Segments(rows(segments))).with_positions(positions)
        }
        _ => Input::new(ids),
    }
}

/// The batch's share of its step's loss: the sum over its targets, over the targets of the whole step.
pub fn batch_loss(model: &Llama, batch: &Batch) -> Tensor<1> {
    let device = model.device();
    let int = |v: &[i32]| Tensor::<1, Int>::from_data(TensorData::new(v.to_vec(), [v.len()]), &device);
    if batch.target_ids.is_empty() {
        return Tensor::zeros([1], (&device, DType::F32));
    }
    let hidden = model.hidden(&input(batch, &device), None);
    let hidden = hidden.select(0, int(&batch.target_positions));
    cross_entropy(model, hidden, int(&batch.target_ids), 1.0 / batch.step_targets.max(1) as f64)
}

impl TrainStep for CausalLm {
    type Input = Batch;
    type Output = LmOutput;

    fn step(&self, batch: Batch) -> TrainOutput<LmOutput> {
        let device = self.model.device();
        let mut run = self.run.state();
        // Dropout is a function of seed, step and micro-batch: a resumed run draws what an uninterrupted one does.
        // Burn has one generator a backend: two runs with dropout in one process, and two replicas, disturb each other.
        if run.dropout {
            device.seed(mix(run.seed, run.step as u64, batch.micro as u64));
        }
        // A regulariser is of the step, not of its micro-batches: the first one brings it.
        let pruning = run.pruning.clone().filter(|_| batch.micro == 0);
        run.tokens += batch.tokens();
        let alone = run.replicas.count == 1;
        drop(run);
        let mut loss = batch_loss(&self.model, &batch);
        let value = loss.clone().without_autodiff();
        if !alone && !loss.is_tracked() {
            // Every replica goes backward: the others wait for its share of the gradients, be it zero.
            let nothing = self.model.hidden(&input(&batch, &device), None).sum().cast(DType::F32);
            loss = loss + nothing.mul_scalar(0.0);
        }
        match pruning.map(|pruning| pruning.orthogonal(&self.model)) {
            Some(Ok(orthogonal)) => {
                self.run.state().orthogonal.insert(batch.micro, orthogonal.clone().without_autodiff());
                loss = loss + orthogonal;
            }
            Some(Err(error)) => self.run.state().fail(error),
            None => {}
        }
        let grads =
            if loss.is_tracked() { GradientsParams::from_grads(loss.backward(), self) } else { GradientsParams::new() };
        self.run.state().loss.insert(batch.micro, value.clone());
        let share = batch.num_targets().max(1) as f64 / batch.step_targets.max(1) as f64;
        TrainOutput { grads, item: LmOutput { loss: value.div_scalar(share) } }
    }

    fn optimize(self, optim: &mut ModuleOptimizer, lr: ModuleLearningRate, grads: GradientsParams) -> Self {
        let run = self.run.clone();
        // Read before the replicas meet: the one that is done first closes the step, and the others would see the next one.
        let (replicas, max_grad_norm, pruning, step) = {
            let run = run.state();
            (run.replicas.clone(), run.max_grad_norm, run.pruning.clone(), run.step + 1)
        };
        let (grads, norm) = clip(&self, grads, max_grad_norm);
        // All micro-batches of the step are in once every replica is here.
        let leads = replicas.meet();
        if leads {
            run.state().read(norm);
        }
        replicas.meet();
        let sound = run.state().error.is_none();
        let next = if sound { self.apply(optim, lr, grads, leads, pruning, step) } else { self };
        if leads {
            // Here and nowhere else, where no replica can go on to a step that another one will not make.
            let run = run.state();
            run.error.iter().for_each(|error| run.interrupter.stop(Some(&error.to_string())));
        }
        replicas.meet();
        next
    }
}

impl CausalLm {
    /// The optimiser step, AdaLoRA's part, and what the run keeps of it, which the leading replica writes.
    fn apply(
        self,
        optim: &mut ModuleOptimizer,
        lr: ModuleLearningRate,
        grads: GradientsParams,
        leads: bool,
        pruning: Option<Pruning>,
        step: usize,
    ) -> Self {
        let run = self.run.clone();
        let (next, allocated) = match pruning {
            None => (optim.step(lr, self, grads), None),
            Some(mut pruning) => {
                let kept = pruning.keep(&self.model, &grads);
                let mut next = optim.step(lr, self, grads);
                let agree = |mask| run.agree(mask, leads);
                match kept.and_then(|kept| pruning.allocate(&mut next.model, optim, &kept, step, agree)) {
                    Ok(allocated) => (next, Some((pruning, allocated))),
                    Err(error) => {
                        run.state().fail(error);
                        return next;
                    }
                }
            }
        };
        if leads {
            run.state().close_step(step, &next, optim, allocated);
        }
        next
    }
}

impl RunState {
    /// Reads loss and norm of the step from the devices, in one transfer, and ends the run if they are not finite.
    fn read(&mut self, norm: Tensor<1>) {
        let device = norm.device();
        let total = |parts: BTreeMap<usize, Tensor<1>>| {
            let sum = parts.into_values().map(|part| part.to_device(&device)).reduce(|a, b| a + b);
            sum.unwrap_or_else(|| Tensor::zeros([1], (&device, DType::F32)))
        };
        let (task, orthogonal) = (total(std::mem::take(&mut self.loss)), total(std::mem::take(&mut self.orthogonal)));
        let numbers: Vec<f64> = Tensor::cat(vec![task, orthogonal, norm], 0).into_data().iter::<f64>().collect();
        self.numbers = Numbers { task: numbers[0], orthogonal: numbers[1], grad_norm: numbers[2] };
        let (loss, grad_norm) = (numbers[0] + numbers[1], numbers[2]);
        if self.error.is_none() && !(loss.is_finite() && grad_norm.is_finite()) {
            let last_good = self.checkpoints.latest();
            self.fail(LearnerError::NotFinite { step: self.step + 1, loss, grad_norm, last_good });
        }
    }

    /// Writes down step `step`, which led to `model`.
    fn close_step(
        &mut self,
        step: usize,
        model: &CausalLm,
        optim: &ModuleOptimizer,
        allocated: Option<(Pruning, Allocated)>,
    ) {
        let seconds = self.started.elapsed().as_secs_f64();
        let Numbers { task, orthogonal, grad_norm } = self.numbers;
        let (pruning, allocated) = allocated.unzip();
        let report = StepReport {
            step,
            loss: task + orthogonal,
            learning_rate: self.learning_rate * self.schedule.multiplier(self.step),
            grad_norm,
            tokens: self.tokens,
            tokens_per_second: self.tokens as f64 / seconds.max(1e-9),
            task_loss: allocated.map(|_| task),
            orthogonal_loss: allocated.map(|_| orthogonal),
            budget: allocated.map(|a| a.budget),
            live_triplets: allocated.map(|a| a.live),
        };
        (self.step, self.tokens) = (step, 0);
        self.pruning = pruning.or(self.pruning.take());
        self.progress.update(&report);
        let mut result = self.metrics.write(&Metrics::Train(report));
        if result.is_ok() && self.save_steps > 0 && (step.is_multiple_of(self.save_steps) || step == self.total_steps) {
            result = save(self, model, optim);
        }
        if let Err(error) = result {
            self.fail(error);
        }
        self.started = Instant::now();
    }
}

fn save(run: &mut RunState, model: &CausalLm, optim: &ModuleOptimizer) -> Result<()> {
    let (step, seed) = (run.step, run.seed);
    let adapter = run.adapter.clone();
    run.checkpoints.save(step, seed, model, optim, adapter.as_deref())
}

impl InferenceStep for CausalLm {
    type Input = Batch;
    type Output = LmOutput;

    fn step(&self, batch: Batch) -> LmOutput {
        let loss = batch_loss(&self.model, &batch);
        let share = batch.num_targets().max(1) as f64 / batch.step_targets.max(1) as f64;
        let mut run = self.run.state();
        run.evaluation.loss += loss.clone().into_scalar::<f64>();
        run.evaluation.targets += batch.num_targets();
        run.evaluation.done += 1;
        if run.evaluation.done == run.evaluation.batches {
            let Evaluation { batches, loss, targets, .. } = std::mem::take(&mut run.evaluation);
            run.evaluation.batches = batches;
            let report = EvalReport { step: run.step, loss, perplexity: loss.exp(), tokens: targets };
            run.progress.evaluated(&report);
            if let Err(error) = run.metrics.write(&Metrics::Valid(report)) {
                run.fail(error);
            }
            run.started = Instant::now();
        }
        LmOutput { loss: loss.div_scalar(share) }
    }
}

/// A well-spread number for each (seed, step, micro-batch); splitmix64's finaliser.
fn mix(seed: u64, step: u64, micro: u64) -> u64 {
    let mut z = seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ micro.wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scales all gradients so that their norm together is at most `max_norm` (0 = off), as PyTorch's `clip_grad_norm_`.
/// Burn's own clipping is per tensor. Returns the norm from before, on the device.
pub fn clip<M: Module>(module: &M, mut grads: GradientsParams, max_norm: f64) -> (GradientsParams, Tensor<1>) {
    struct Squares<'a>(&'a GradientsParams, Option<Tensor<1>>);
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.get::<D>(param.id) {
                let grad = grad.cast(DType::F32);
                let square = (grad.clone() * grad).sum();
                self.1 = Some(match self.1.take() {
                    Some(sum) => sum + square,
                    None => square,
                });
            }
        }
    }
    struct Scale<'a>(&'a mut GradientsParams, Tensor<1>);
    impl Scale<'_> {
        fn scale<const D: usize>(&mut self, id: ParamId) {
            if let Some(grad) = self.0.remove::<D>(id) {
                let factor = self.1.clone().cast(grad.dtype()).reshape([1; D]);
                self.0.register(id, grad * factor);
            }
        }
    }
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.scale::<D>(param.id);
        }
    }
    let mut squares = Squares(&grads, None);
    module.visit(&mut squares);
    let Some(sum) = squares.1 else {
        let device = module.devices().into_iter().next().unwrap_or_default().inner();
        return (grads, Tensor::zeros([1], (&device, DType::F32)));
    };
    let norm = sum.sqrt();
    if max_norm > 0.0 {
        let factor = norm.clone().add_scalar(1e-6).recip().mul_scalar(max_norm).clamp_max(1.0);
        module.visit(&mut Scale(&mut grads, factor));
    }
    (grads, norm)
}
