//! LoRA (Hu et al. 2021, arXiv:2106.09685): `y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ`.
//!
//! `s` is `alpha / r`, or `alpha / √r` with `use_rslora` (Kalajdzievski 2023). Neither `B·A` nor `W + s·B·A` exists during
//! training; they are made by [`Lora::delta`] alone.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use fused_burn::{Weight, can_join};

use super::init::{self, LoraSpec};
use super::op::lora_linear;
use crate::error::{Result, Unsupported};
use crate::low_rank::LowRank;
use crate::methods::dropout::dropout;
use crate::methods::traits::{MethodLayer, Update};
use crate::param::{ParamMut, ParamRef, from_vec};
use crate::random::TensorRng;

/// A LoRA adapter of one linear layer.
#[derive(Module, Debug)]
pub struct Lora {
    /// A: `[r, in]`.
    pub lora_a: Param<Tensor<2>>,
    /// B: `[out, r]`.
    pub lora_b: Param<Tensor<2>>,
    /// B's bias: `[out]`.
    pub bias_b: Option<Param<Tensor<1>>>,
    /// Factor of the update.
    pub scaling: f64,
    /// Probability of dropping an input in training.
    pub dropout: f64,
}

impl Lora {
    /// Makes the adapter for `weight` (`[out, in]`). The second value is the residual that takes the base weight's
    /// place when the initialisation moves a part of it into the adapter (PiSSA, OLoRA).
    ///
    /// # Errors
    /// A rank that the initialisation cannot have: above the matrix's for PiSSA and OLoRA, odd for orthogonal.
    pub fn init(spec: &LoraSpec, weight: &Weight, rng: &mut TensorRng) -> Result<(Self, Option<Tensor<2>>)> {
        let device = weight.device();
        let out = weight.dims()[0];
        if weight.is_packed() && spec.init.changes_base_weight() {
            return Err(Unsupported::PackedInitialisation { init: serde_json::json!(spec.init).to_string() }.into());
        }
        let (a, b) = init::draw(spec, weight, rng)?;
        let residual = spec.init.changes_base_weight().then(|| {
            let w = weight.dense().cast(DType::F32);
            (w - b.clone().matmul(a.clone()).mul_scalar(spec.scaling)).cast(weight.dtype())
        });
        let bias_b = spec.bias.then(|| from_vec(vec![0.0; out], [out], &device));
        let lora = Self {
            lora_a: Param::from_tensor(a),
            lora_b: Param::from_tensor(b),
            bias_b,
            scaling: spec.scaling,
            dropout: spec.dropout,
        };
        Ok((lora, residual))
    }

    /// The rank.
    pub fn rank(&self) -> usize {
        self.lora_a.val().dims()[0]
    }

    /// The update without B's bias for `x` (`[n, in]`, f32), dropped out in training: `[n, out]`.
    pub fn update_of(&self, x: Tensor<2>) -> Tensor<2> {
        self.low_rank(dropout(x, self.dropout, self.lora_a.val().is_require_grad()))
    }

    /// `s·(x·Aᵀ)·Bᵀ` for `x` as it is.
    pub(crate) fn low_rank(&self, x: Tensor<2>) -> Tensor<2> {
        let low = x.matmul(self.lora_a.val().transpose());
        low.mul_scalar(self.scaling).matmul(self.lora_b.val().transpose())
    }

    /// A and B where the update is nothing else, and one operation with `x·Wᵀ`.
    pub(crate) fn plain_factors(&self, x: &Tensor<2>, weight: &Weight) -> Option<[Tensor<2>; 2]> {
        let (a, b) = (self.lora_a.val(), self.lora_b.val());
        let dropout = self.dropout > 0.0 && a.is_require_grad();
        (!dropout && self.bias_b.is_none() && can_join(x, weight, &[&a, &b])).then_some([a, b])
    }

    /// `s·B·A`: `[out, in]` in f32.
    pub fn delta(&self) -> Tensor<2> {
        let (a, b) = (self.lora_a.val().cast(DType::F32), self.lora_b.val().cast(DType::F32));
        b.matmul(a).mul_scalar(self.scaling)
    }

    /// B's bias, scaled, as it is added to the base's.
    pub fn delta_bias(&self) -> Option<Tensor<1>> {
        self.bias_b.as_ref().map(|b| b.val().mul_scalar(self.scaling))
    }
}

impl MethodLayer for Lora {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        let mut all =
            vec![("lora_A.weight", ParamRef::from(&self.lora_a)), ("lora_B.weight", ParamRef::from(&self.lora_b))];
        all.extend(self.bias_b.iter().map(|b| ("lora_B.bias", ParamRef::from(b))));
        all
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let mut all = vec![
            ("lora_A.weight", ParamMut::from(&mut self.lora_a)),
            ("lora_B.weight", ParamMut::from(&mut self.lora_b)),
        ];
        all.extend(self.bias_b.iter_mut().map(|b| ("lora_B.bias", ParamMut::from(b))));
        all
    }

    fn apply(&self, product: Tensor<2>, x: Tensor<2>, _: &Weight, _: Option<&Tensor<2>>) -> Tensor<2> {
        product + self.update_of(x)
    }

    fn project(
        &self,
        x: &Tensor<2>,
        weight: &Weight,
        _: &Weight,
        _: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        let [a, b] = self.plain_factors(x, weight)?;
        Some(lora_linear(x.clone(), weight.clone(), a, b, self.scaling, rounded))
    }

    fn merge(&self, weight: Tensor<2>, _: &Weight) -> Tensor<2> {
        weight + self.delta()
    }

    fn changes_bias(&self, _: bool) -> bool {
        self.bias_b.is_some()
    }

    fn apply_bias(&self, bias: Option<Tensor<1>>) -> Option<Tensor<1>> {
        match (bias, self.delta_bias()) {
            (Some(bias), Some(delta)) => Some(bias + delta),
            (bias, delta) => bias.or(delta),
        }
    }

    fn update(&self) -> Option<Update<'_>> {
        let low_rank = LowRank::new(self.lora_a.val(), self.lora_b.val(), self.scaling);
        Some(Update { low_rank, magnitude: None })
    }

    fn rescale(&mut self, multiplier: f64) -> bool {
        self.scaling *= multiplier;
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::InitLoraWeights;
    use burn::tensor::Tolerance;
    use burn::tensor::{Device, TensorData};

    fn spec(init: InitLoraWeights) -> LoraSpec {
        LoraSpec { r: 4, scaling: 2.0, dropout: 0.0, bias: false, init }
    }

    fn weight(out: usize, inp: usize) -> Tensor<2> {
        let data = TensorData::new(TensorRng::new(1, "w").normal(out * inp, 0.3), [out, inp]);
        Tensor::from_data(data, &Device::flex())
    }

    #[test]
    fn the_update_is_zero_at_the_start_and_equals_the_delta_later() {
        let w = weight(6, 10);
        for init in [InitLoraWeights::Default, InitLoraWeights::Gaussian, InitLoraWeights::Orthogonal] {
            let (lora, residual) =
                Lora::init(&spec(init.clone()), &w.clone().into(), &mut TensorRng::new(1, "l")).unwrap();
            assert!(residual.is_none());
            assert!(lora.delta().abs().max().into_scalar::<f32>() < 1e-6, "{init:?}");
        }
        let (lora, _) =
            Lora::init(&spec(InitLoraWeights::Random), &w.clone().into(), &mut TensorRng::new(1, "l")).unwrap();
        let x = weight(3, 10);
        let direct = x.clone().matmul(lora.delta().transpose());
        lora.update_of(x).into_data().assert_approx_eq::<f32>(&direct.into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn pissa_and_olora_leave_the_function_as_it_was() {
        for (out, inp) in [(6, 10), (10, 6), (8, 8)] {
            let w = weight(out, inp);
            for init in [InitLoraWeights::Pissa, InitLoraWeights::PissaNiter(4), InitLoraWeights::Olora] {
                let (lora, residual) =
                    Lora::init(&spec(init.clone()), &w.clone().into(), &mut TensorRng::new(1, "l")).unwrap();
                let sum = residual.unwrap() + lora.delta();
                sum.into_data().assert_approx_eq::<f32>(&w.to_data(), Tolerance::absolute(1e-5));
                assert!(lora.delta().abs().max().into_scalar::<f32>() > 0.1);
            }
        }
    }

    #[test]
    fn impossible_ranks_are_errors() {
        let w = weight(3, 3);
        assert!(Lora::init(&spec(InitLoraWeights::Pissa), &w.clone().into(), &mut TensorRng::new(1, "l")).is_err());
        let odd = LoraSpec { r: 3, ..spec(InitLoraWeights::Orthogonal) };
        assert!(Lora::init(&odd, &w.clone().into(), &mut TensorRng::new(1, "l")).is_err());
    }
}
