//! Clipping by the norm of all gradients together.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};

/// Scales all gradients so that their norm together is at most `max_norm` (0: off), as PyTorch's `clip_grad_norm_` does.
/// Burn's own clipping is per tensor. Returns the norm from before, `[1]`, on the device.
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
