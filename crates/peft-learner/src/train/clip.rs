//! Clipping by the norm of all gradients together.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use fused_burn::{AnyTensor, better_together, sum_of_squares};

use crate::config::TrainingConfig;
use crate::error::{LearnerError, Result};

/// Checks the bound on the norm of all gradients.
///
/// # Errors
/// One that is negative, infinite or NaN.
pub(crate) fn check_max_grad_norm(bound: f64) -> Result<()> {
    let problems = TrainingConfig { max_grad_norm: bound, ..TrainingConfig::default() }.problems();
    if problems.is_empty() { Ok(()) } else { Err(LearnerError::Options(problems)) }
}

/// Scales all gradients so that their norm together is at most `max_norm` (0: off), as PyTorch's `clip_grad_norm_` does.
/// Burn's own clipping is per tensor. Returns the norm from before, `[1]`, on the device.
pub fn clip<M: Module>(module: &M, mut grads: GradientsParams, max_norm: f64) -> (GradientsParams, Tensor<1>) {
    let (norm, factor) = measure(module, &grads, max_norm);
    if let Some(factor) = factor {
        scale(module, &mut grads, &factor);
    }
    (grads, norm)
}

/// The norm of all gradients together, `[1]`, and what they are to be scaled by so that it is at most `max_norm` (0: off).
pub(crate) fn measure<M: Module>(module: &M, grads: &GradientsParams, max_norm: f64) -> (Tensor<1>, Option<Tensor<1>>) {
    let device = module.devices().into_iter().next().unwrap_or_default().inner();
    let mut squares = Squares { grads, together: better_together(&device), sum: None, all: Vec::new() };
    module.visit(&mut squares);
    let Some(sum) = squares.sum.or_else(|| sum_of_squares(squares.all)) else {
        return (Tensor::zeros([1], (&device, DType::F32)), None);
    };
    let norm = sum.sqrt();
    let factor = || norm.clone().add_scalar(1e-6).recip().mul_scalar(max_norm).clamp_max(1.0);
    let factor = (max_norm > 0.0).then(factor);
    (norm, factor)
}

/// The sum of the squares so far, or the gradients that they are to be of.
struct Squares<'a> {
    grads: &'a GradientsParams,
    together: bool,
    sum: Option<Tensor<1>>,
    all: Vec<AnyTensor>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(grad) = self.grads.get::<D>(param.id) else { return };
        if self.together {
            return self.all.push(grad.into());
        }
        let grad = grad.cast(DType::F32);
        let square = (grad.clone() * grad).sum();
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum + square,
            None => square,
        });
    }
}

/// Every gradient of `module`'s parameters times `factor` (`[1]`).
pub(crate) fn scale<M: Module>(module: &M, grads: &mut GradientsParams, factor: &Tensor<1>) {
    struct Scale<'a>(&'a mut GradientsParams, &'a Tensor<1>);
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
    module.visit(&mut Scale(grads, factor));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_zero_or_above() {
        for bound in [0.0, 1e-3, 1e6] {
            check_max_grad_norm(bound).unwrap();
        }
        for bound in [-1.0, f64::NAN, f64::INFINITY] {
            let error = check_max_grad_norm(bound).unwrap_err().to_string();
            assert!(error.contains(&format!("`max_grad_norm` is {bound}; it must be 0 (off) or above")), "{error}");
        }
    }
}
