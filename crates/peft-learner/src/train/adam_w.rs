//! AdamW of Burn, whose step takes all parameters together where the device is a GPU: Burn's own walks from one to the next,
//! with a handful of launches for each.
//!
//! Burn keeps the moments, and walks: an optimiser sees one parameter at a time. So the step walks twice. The first time
//! the optimiser lets go of each parameter with its moments, the second time it gives back what has become of them.

use std::cell::RefCell;
use std::collections::VecDeque;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{
    AdamW as Apart, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, ModuleOptimizer, Optimizer,
};
use burn::tensor::{DType, Device, Tensor};
use fused_burn::{AdamWParameter, AdamWStep, AnyTensor, adam_w, better_together};

use super::clip::scale;
use crate::config::TrainingConfig;

thread_local! {
    static WALK: RefCell<Walk> = const { RefCell::new(Walk::Alone) };
}

/// The purpose of the present walk over the parameters.
enum Walk {
    /// Each parameter makes its step where it is met.
    Alone,
    /// The parameters with the numbers of their steps.
    First(Vec<(AdamWParameter, AdamWStep)>),
    /// The parameters after the step, to be put back.
    Second(VecDeque<(AnyTensor, [AnyTensor; 2], usize)>),
}

/// Burn's AdamW with the settings that a step of all parameters together needs too.
#[derive(Clone)]
struct AdamW {
    apart: Apart,
    betas: [f32; 2],
    epsilon: f32,
    weight_decay: f32,
}

/// The optimiser of a run with these settings. Its records are those of Burn's AdamW.
pub fn optimizer(training: &TrainingConfig) -> ModuleOptimizer {
    let betas = [training.adam_beta1 as f32, training.adam_beta2 as f32];
    let (epsilon, weight_decay) = (training.adam_epsilon as f32, training.weight_decay as f32);
    let apart = AdamWConfig::new()
        .with_beta_1(betas[0])
        .with_beta_2(betas[1])
        .with_epsilon(epsilon)
        .with_weight_decay(weight_decay)
        .build();
    AdamW { apart, betas, epsilon, weight_decay }.into()
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        WALK.with_borrow_mut(|walk| match walk {
            Walk::First(seen) => {
                let (moments, time) = match state {
                    Some(AdamWState { momentum }) => ([momentum.moment_1, momentum.moment_2], momentum.time + 1),
                    None => ([grad.zeros_like(), grad.zeros_like()], 1),
                };
                let &Self { betas, epsilon, weight_decay, .. } = self;
                let step = AdamWStep { lr, betas, epsilon, weight_decay, time };
                let (value, gradient) = (tensor.clone().into(), grad.into());
                seen.push((AdamWParameter { value, gradient, moments: moments.map(Into::into) }, step));
                (tensor, None)
            }
            Walk::Second(done) => match done.pop_front() {
                Some((value, [first, second], time)) => {
                    let momentum = AdaptiveMomentumState::new(time, first.of_rank(), second.of_rank());
                    (value.of_rank(), Some(AdamWState::new(momentum)))
                }
                None => (tensor, state),
            },
            Walk::Alone => self.apart.step(lr, tensor, grad, state),
        })
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        Apart::to_device(state, device)
    }
}

/// The step of `optimizer` with gradients `factor` (`[1]`) times, or as they are.
pub(crate) fn step<M: Module>(
    optimizer: &mut ModuleOptimizer,
    lr: ModuleLearningRate,
    module: M,
    mut grads: GradientsParams,
    factor: Option<Tensor<1>>,
) -> M {
    let device = module.devices().into_iter().next().unwrap_or_default();
    if !better_together(&device) || !is_ours(optimizer) {
        if let Some(factor) = factor {
            scale(&module, &mut grads, &factor);
        }
        return optimizer.step(lr, module, grads);
    }
    let factor = factor.unwrap_or_else(|| Tensor::ones([1], (&device.inner(), DType::F32)));
    let again = copied(&module, &grads);
    WALK.set(Walk::First(Vec::new()));
    let module = optimizer.step(lr.clone(), module, grads);
    let seen = match WALK.replace(Walk::Alone) {
        Walk::First(seen) => seen,
        Walk::Alone | Walk::Second(_) => Vec::new(),
    };
    WALK.set(Walk::Second(together(seen, &factor)));
    let module = optimizer.step(lr, module, again);
    WALK.set(Walk::Alone);
    module
}

/// The steps of all parameters, in their order: those with the same numbers together.
fn together(
    seen: Vec<(AdamWParameter, AdamWStep)>,
    factor: &Tensor<1>,
) -> VecDeque<(AnyTensor, [AnyTensor; 2], usize)> {
    let mut groups: Vec<(AdamWStep, Vec<(usize, AdamWParameter)>)> = Vec::new();
    let count = seen.len();
    for (place, (parameter, step)) in seen.into_iter().enumerate() {
        match groups.iter_mut().find(|(of_group, _)| *of_group == step) {
            Some((_, members)) => members.push((place, parameter)),
            None => groups.push((step, vec![(place, parameter)])),
        }
    }
    let mut done: Vec<_> = (0..count).map(|_| None).collect();
    for (step, members) in groups {
        let (places, parameters): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        for (place, (value, moments)) in places.into_iter().zip(adam_w(parameters, factor.clone(), step)) {
            done[place] = Some((value, moments, step.time));
        }
    }
    done.into_iter().flatten().collect()
}

/// Whether a walk can be made twice: another optimiser would make its step twice. It is asked with a parameter of its own,
/// on a copy of the optimiser, which shares the moments.
fn is_ours(optimizer: &ModuleOptimizer) -> bool {
    #[derive(Module, Debug)]
    struct Asked {
        value: Param<Tensor<1>>,
    }
    let value = Param::from_tensor(Tensor::zeros([1], &Device::flex().autodiff()));
    let mut grads = GradientsParams::new();
    grads.register(value.id, Tensor::<1>::zeros([1], &Device::flex()));
    WALK.set(Walk::First(Vec::new()));
    optimizer.clone().step(0.5, Asked { value }, grads);
    matches!(WALK.replace(Walk::Alone), Walk::First(seen) if !seen.is_empty())
}

fn copied<M: Module>(module: &M, grads: &GradientsParams) -> GradientsParams {
    struct Copy<'a>(&'a GradientsParams, GradientsParams);
    impl ModuleVisitor for Copy<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.get::<D>(param.id) {
                self.1.register(param.id, grad);
            }
        }
    }
    let mut copy = Copy(grads, GradientsParams::new());
    module.visit(&mut copy);
    copy.1
}
