//! DoRA (Liu et al. 2024, arXiv:2402.09353): `y = c ∘ (x·Wᵀ + s·(x·Aᵀ)·Bᵀ) + b` with `c = m / ‖W + s·B·A‖`, row by row.
//!
//! The norm is a constant for the gradient (section 4.3 of the paper). It comes from the Gram identity
//! `‖W + s·B·A‖² = ‖W‖² + 2s·Σ(W·Aᵀ ∘ B) + s²·Σ(B·(A·Aᵀ) ∘ B)`, whose largest temporary is `[out, r]`, and it is kept
//! until A or B change: training computes it once an optimiser step, inference once.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use fused_burn::{Weight, base_linear, scale_columns};

use super::magnitude::Magnitude;
use super::op::dora_linear;
use crate::error::Result;
use crate::methods::dropout::dropout;
use crate::methods::lora::{Lora, LoraSpec};
use crate::methods::traits::{MethodLayer, Update};
use crate::param::{ParamMut, ParamRef};
use crate::random::TensorRng;

/// A DoRA adapter of one linear layer.
#[derive(Module, Debug)]
pub struct Dora {
    lora: Lora,
    magnitude: Magnitude,
}

impl Dora {
    /// Makes the adapter for `weight` (`[out, in]`); the second value is the residual, as for [`Lora::init`].
    ///
    /// # Errors
    /// As [`Lora::init`].
    pub fn init(spec: &LoraSpec, weight: &Weight, rng: &mut TensorRng) -> Result<(Self, Option<Tensor<2>>)> {
        let (lora, residual) = Lora::init(spec, weight, rng)?;
        let residual_weight = residual.clone().map(Weight::Dense);
        let base = residual_weight.as_ref().unwrap_or(weight);
        let magnitude = Magnitude::new(base, &lora.lora_a.val(), &lora.lora_b.val(), lora.scaling);
        Ok((Self { lora, magnitude }, residual))
    }

    /// The direction's low-rank update.
    pub fn lora(&self) -> &Lora {
        &self.lora
    }

    /// The learned row norms m: `[out]`.
    pub fn magnitude(&self) -> &Param<Tensor<1>> {
        self.magnitude.magnitude()
    }

    /// c = m / ‖W + s·B·A‖ for W = `base` (`[out, in]`): `[out]`. Only m has a gradient.
    pub fn factor(&self, base: &Weight) -> Tensor<1> {
        self.magnitude.factor(base, &self.lora.lora_a.val(), &self.lora.lora_b.val(), self.lora.scaling)
    }
}

impl MethodLayer for Dora {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        let mut all = self.lora.params();
        all.push(("lora_magnitude_vector", self.magnitude.magnitude().into()));
        all
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        self.magnitude.forget_norm();
        let mut all = self.lora.params_mut();
        all.push(("lora_magnitude_vector", self.magnitude.magnitude_mut().into()));
        all
    }

    /// With dropout PEFT computes the correction from the base weight and the dropped input, and so does this.
    fn apply(&self, product: Tensor<2>, x: Tensor<2>, base: &Weight, _: Option<&Tensor<2>>) -> Tensor<2> {
        let c = self.factor(base);
        let p = self.lora.dropout;
        if p == 0.0 || !self.lora.lora_a.val().is_require_grad() {
            return scale_columns(product + self.lora.low_rank(x), c);
        }
        let x = dropout(x, p, true);
        let dropped = base_linear(x.clone().cast(base.dtype()), base.clone()).cast(DType::F32);
        product + scale_columns(dropped.clone() + self.lora.low_rank(x), c) - dropped
    }

    fn project(
        &self,
        x: &Tensor<2>,
        weight: &Weight,
        base: &Weight,
        _: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        let factors = self.lora.plain_factors(x, weight)?;
        Some(dora_linear(x.clone(), weight.clone(), factors, self.factor(base), self.lora.scaling, rounded))
    }

    fn merge(&self, weight: Tensor<2>, base: &Weight) -> Tensor<2> {
        (weight + self.lora.delta()) * self.factor(base).unsqueeze_dim(1)
    }

    fn update(&self) -> Option<Update<'_>> {
        let update = self.lora.update()?;
        Some(Update { magnitude: Some(&self.magnitude), ..update })
    }

    fn rescale(&mut self, multiplier: f64) -> bool {
        self.magnitude.forget_norm();
        self.lora.rescale(multiplier)
    }

    fn forget_base(&mut self) {
        self.magnitude.forget_base();
    }

    fn base_is_visible(&mut self) {
        self.magnitude.base_is_visible();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::InitLoraWeights;
    use crate::testing::{close, matrix};
    use burn::tensor::Device;

    fn dora(weight: &Tensor<2>, init: InitLoraWeights, dropout: f64) -> (Dora, Option<Tensor<2>>) {
        let spec = LoraSpec { r: 2, scaling: 1.5, dropout, bias: false, init };
        Dora::init(&spec, &weight.clone().into(), &mut TensorRng::new(1, "d")).unwrap()
    }

    #[test]
    fn it_starts_as_the_base_also_from_pissa() {
        let (w, x) = (matrix(5, 7, 1), matrix(3, 7, 2));
        let plain = x.clone().matmul(w.clone().transpose());
        for init in [InitLoraWeights::Default, InitLoraWeights::Pissa] {
            let (dora, residual) = dora(&w, init, 0.0);
            let base = residual.unwrap_or_else(|| w.clone());
            close(
                dora.apply(x.clone().matmul(base.clone().transpose()), x.clone(), &base.clone().into(), None),
                plain.clone(),
            );
        }
    }

    #[test]
    fn a_zero_row_is_finite_and_has_finite_gradients() {
        let w = Tensor::<2>::cat(vec![matrix(4, 7, 1), Tensor::zeros([1, 7], &Device::flex())], 0);
        let (dora, _) = dora(&w, InitLoraWeights::Default, 0.0);
        let (dora, x) = (dora.train(), matrix(3, 7, 2));
        let y = dora.apply(x.clone().matmul(w.clone().transpose()), x, &w.clone().into(), None);
        assert!(y.clone().is_finite().all().into_scalar::<bool>());
        let grads = y.powi_scalar(2).sum().backward();
        let (m, b) = (dora.magnitude().val(), dora.lora.lora_b.val());
        assert!(m.grad(&grads).unwrap().is_finite().all().into_scalar::<bool>());
        assert!(b.grad(&grads).unwrap().is_finite().all().into_scalar::<bool>());
        let merged = dora.valid().merge(w.clone(), &w.clone().into());
        assert!(merged.is_finite().all().into_scalar::<bool>());
    }

    #[test]
    fn the_norm_follows_new_values() {
        let w = matrix(5, 7, 1);
        let (mut dora, _) = dora(&w, InitLoraWeights::Default, 0.0);
        let before = dora.factor(&w.clone().into());
        for (name, mut param) in dora.params_mut() {
            if name == "lora_B.weight" {
                param.set(matrix(5, 2, 9).into_data());
            }
        }
        let dense = (w.clone() + dora.lora.delta()).powi_scalar(2).sum_dim(1).sqrt().squeeze_dim::<1>(1);
        let expected = dora.magnitude().val() / dense;
        close(dora.factor(&w.clone().into()).unsqueeze(), expected.unsqueeze());
        assert!((dora.factor(&w.clone().into()) - before).abs().max().into_scalar::<f32>() > 1e-2);
    }

    #[test]
    fn dropout_changes_the_correction_and_not_the_base() {
        let (w, x) = (matrix(5, 7, 1), matrix(3, 7, 2));
        let (dora, _) = dora(&w, InitLoraWeights::Random, 0.5);
        let product = x.clone().matmul(w.clone().transpose());
        let evaluated = dora.apply(product.clone(), x.clone(), &w.clone().into(), None);
        let training = dora.clone().train();
        // With c = 1 the correction is the low-rank update alone, whatever was dropped.
        let zero = Tensor::zeros([3, 7], &Device::flex());
        close(training.apply(product.clone(), zero, &w.clone().into(), None).inner(), product.clone());
        let dropped = training.apply(product, x, &w.clone().into(), None).inner();
        assert!((dropped - evaluated).abs().max().into_scalar::<f32>() > 1e-3);
    }
}
