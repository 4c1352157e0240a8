//! A step of an adapted model, as Burn's training loop calls it.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::Tensor;
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use peft_burn::{Result, adalora};

use super::place::Place;
use super::watch::StepNumbers;
use super::wrapper::Adapted;
use crate::train::{clip, mix};

impl<M: Module + TrainStep, P: Place<M>> TrainStep for Adapted<M, P> {
    type Input = M::Input;
    type Output = M::Output;

    fn step(&self, item: M::Input) -> TrainOutput<M::Output> {
        let batch = self.watch.begin_batch();
        if self.draws {
            let seed = mix(self.seed, self.steps.get() as u64, batch as u64);
            self.model.devices().iter().for_each(|device| device.seed(seed));
        }
        let TrainOutput { grads, item } = TrainStep::step(&self.model, item);
        let grads = match self.orthogonality() {
            Ok(None) => grads,
            Ok(Some(orthogonality)) => {
                let mut sum = GradientsAccumulator::new();
                sum.accumulate(&self.model, grads);
                sum.accumulate(&self.model, orthogonality);
                sum.grads()
            }
            Err(error) => {
                self.watch.fail(error);
                grads
            }
        };
        TrainOutput { grads, item }
    }

    fn optimize(self, optim: &mut ModuleOptimizer, lr: ModuleLearningRate, grads: GradientsParams) -> Self {
        let (before, watch) = (self.clone(), self.watch.clone());
        if watch.error().is_some() {
            return before;
        }
        match self.apply(optim, lr, grads) {
            Ok(next) => next,
            Err(error) => {
                watch.fail(error);
                before
            }
        }
    }

    fn optimize_multi(self, optim: &mut ModuleOptimizer, lr: ModuleLearningRate, grads: MultiGradientsParams) -> Self {
        let mut sum = Sum { parts: grads, sum: GradientsParams::new() };
        self.visit(&mut sum);
        self.optimize(optim, lr, sum.sum)
    }
}

impl<M: Module + TrainStep, P: Place<M>> Adapted<M, P> {
    /// The gradients of AdaLoRA's regulariser, where it has one.
    fn orthogonality(&self) -> Result<Option<GradientsParams>> {
        if !self.prunes {
            return Ok(None);
        }
        let name = self.place.name();
        let term = self.place.read(&self.model, |layers| adalora::orthogonal_regularization(layers, name))?;
        Ok(term.is_tracked().then(|| GradientsParams::from_grads(term.backward(), &self.model)))
    }

    /// Clips, lets the optimiser make its step, and does AdaLoRA's part.
    fn apply(mut self, optim: &mut ModuleOptimizer, lr: ModuleLearningRate, grads: GradientsParams) -> Result<Self> {
        let watched = self.watch.is_watched();
        let (grads, grad_norm) = match watched || self.max_grad_norm > 0.0 {
            true => {
                let (grads, norm) = clip(&self.model, grads, self.max_grad_norm);
                (grads, Some(norm))
            }
            false => (grads, None),
        };
        let mut numbers = StepNumbers { grad_norm: grad_norm.filter(|_| watched), ..StepNumbers::default() };
        let step = self.steps.get() + 1;
        if self.prunes {
            let name = self.place.name().to_owned();
            let kept = self.place.read(&self.model, |layers| adalora::keep_gradients(layers, &name, &grads))?;
            let model = optim.step(lr, self.model, grads);
            let (model, allocation) = self.place.update_and_allocate(model, &kept, step)?;
            self.model = model;
            numbers.budget = Some(allocation.budget);
            if watched {
                let live = self.place.read(&self.model, |layers| adalora::live_triplets(layers, &name))?;
                numbers.live = Some(live);
            }
        } else {
            self.model = optim.step(lr, self.model, grads);
        }
        self.steps.set(step);
        self.watch.end_step(numbers);
        Ok(self)
    }
}

impl<M: Module + InferenceStep, P: Place<M>> InferenceStep for Adapted<M, P> {
    type Input = M::Input;
    type Output = M::Output;

    fn step(&self, item: M::Input) -> M::Output {
        InferenceStep::step(&self.model, item)
    }
}

/// Adds up the gradients of several devices where the parameters are.
struct Sum {
    parts: MultiGradientsParams,
    sum: GradientsParams,
}

impl ModuleVisitor for Sum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some((grad, _)) = self.parts.remove::<D>(param.id) {
            self.sum.register(param.id, grad.to_device(&param.base().without_autodiff().device()));
        }
    }
}
