//! LoHa (Hyeon-Woo et al. 2021, arXiv:2108.06098; LyCORIS): `y = x·Wᵀ + b + s·x·((A₁·B₁) ∘ (A₂·B₂))ᵀ`, `s = alpha / r`.
//!
//! The Hadamard product of two products of rank r is one product of rank r²:
//! `(A₁·B₁) ∘ (A₂·B₂) = Σᵢⱼ (A₁ᵢ ∘ A₂ⱼ)·(B₁ᵢ ∘ B₂ⱼ)`. So the update is computed as LoRA's of rank r², whose factors are made
//! of the four matrices, and `[out, in]` numbers exist only where that takes fewer operations. Backward keeps the
//! factors, never the update.

use burn::module::{Module, Param};
use burn::tensor::{DType, Distribution, Tensor};
use fused_burn::{Weight, can_join};

use crate::low_rank::LowRank;
use crate::methods::lora::op::lora_linear;
use crate::methods::traits::{MethodLayer, Update};
use crate::param::{ParamMut, ParamRef, from_vec};
use crate::random::TensorRng;

/// A LoHa adapter of one linear layer.
#[derive(Module, Debug)]
pub struct LoHa {
    /// A₁: `[out, r]`.
    pub w1_a: Param<Tensor<2>>,
    /// B₁: `[r, in]`.
    pub w1_b: Param<Tensor<2>>,
    /// A₂: `[out, r]`.
    pub w2_a: Param<Tensor<2>>,
    /// B₂: `[r, in]`.
    pub w2_b: Param<Tensor<2>>,
    /// Factor of the update.
    pub scaling: f64,
    /// Probability of dropping an output of the update in training.
    pub rank_dropout: f64,
    /// Probability of dropping the update in training.
    pub module_dropout: f64,
}

impl LoHa {
    /// Makes the adapter for `weight` (`[out, in]`). `zero`: B₂ begins as zero, and the update with it; the other matrices
    /// are uniform in ±1/√columns, as PEFT begins.
    pub fn init(weight: &Weight, r: usize, scaling: f64, zero: bool, rng: &mut TensorRng) -> Self {
        let ([out, inp], device) = (weight.dims(), weight.device());
        let mut uniform = |rows: usize, columns: usize| {
            let values = rng.uniform(rows * columns, 1.0 / (columns as f32).sqrt());
            from_vec(values, [rows, columns], &device)
        };
        let (w1_a, w1_b, w2_a) = (uniform(out, r), uniform(r, inp), uniform(out, r));
        let w2_b = if zero { from_vec(vec![0.0; r * inp], [r, inp], &device) } else { uniform(r, inp) };
        Self { w1_a, w1_b, w2_a, w2_b, scaling, rank_dropout: 0.0, module_dropout: 0.0 }
    }

    /// The rank r of the two factors.
    pub fn rank(&self) -> usize {
        self.w1_a.val().dims()[1]
    }

    /// `s·(A₁·B₁) ∘ (A₂·B₂)`: `[out, in]`.
    pub fn delta(&self) -> Tensor<2> {
        let one = self.w1_a.val().matmul(self.w1_b.val());
        (one * self.w2_a.val().matmul(self.w2_b.val())).mul_scalar(self.scaling)
    }

    /// The update's factors of rank r²: `[r², in]` and `[out, r²]`.
    fn factors(&self) -> [Tensor<2>; 2] {
        let (r, [out, _], [_, inp]) = (self.rank(), self.w1_a.val().dims(), self.w1_b.val().dims());
        let b = self.w1_b.val().reshape([r, 1, inp]) * self.w2_b.val().reshape([1, r, inp]);
        let a = self.w1_a.val().reshape([out, r, 1]) * self.w2_a.val().reshape([out, 1, r]);
        [b.reshape([r * r, inp]), a.reshape([out, r * r])]
    }

    /// Whether the factors take fewer operations than the update itself.
    fn is_cheaper_in_factors(&self) -> bool {
        let (r, [out, _], [_, inp]) = (self.rank(), self.w1_a.val().dims(), self.w1_b.val().dims());
        r * r * (out + inp) < out * inp
    }

    fn drops(&self) -> bool {
        (self.rank_dropout > 0.0 || self.module_dropout > 0.0) && self.w1_a.val().is_require_grad()
    }

    /// `update` (`[n, out]`) with outputs, or all of it, dropped as PEFT drops them in training.
    fn dropped(&self, update: Tensor<2>) -> Tensor<2> {
        if !self.drops() {
            return update;
        }
        let ([_, out], device) = (update.dims(), update.device());
        let kept =
            |n: usize, p: f64| Tensor::<2>::random([1, n], Distribution::Bernoulli(1.0 - p), (&device, DType::F32));
        let mut update = update;
        if self.rank_dropout > 0.0 {
            let rows = kept(out, self.rank_dropout);
            // Where nothing is kept PEFT divides by zero, and this leaves the update out.
            let mean = rows.clone().mean().clamp_min(1.0 / out as f64);
            update = update * (rows / mean.reshape([1, 1]));
        }
        if self.module_dropout > 0.0 {
            // On the device, which nothing then waits for.
            update = update * kept(1, self.module_dropout);
        }
        update
    }
}

impl MethodLayer for LoHa {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        vec![
            ("hada_w1_a", (&self.w1_a).into()),
            ("hada_w1_b", (&self.w1_b).into()),
            ("hada_w2_a", (&self.w2_a).into()),
            ("hada_w2_b", (&self.w2_b).into()),
        ]
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("hada_w1_a", (&mut self.w1_a).into()),
            ("hada_w1_b", (&mut self.w1_b).into()),
            ("hada_w2_a", (&mut self.w2_a).into()),
            ("hada_w2_b", (&mut self.w2_b).into()),
        ]
    }

    fn apply(&self, product: Tensor<2>, x: Tensor<2>, _: &Weight, _: Option<&Tensor<2>>) -> Tensor<2> {
        let update = if self.is_cheaper_in_factors() {
            let [a, b] = self.factors();
            x.matmul(a.transpose()).mul_scalar(self.scaling).matmul(b.transpose())
        } else {
            x.matmul(self.delta().transpose())
        };
        product + self.dropped(update)
    }

    fn project(
        &self,
        x: &Tensor<2>,
        weight: &Weight,
        _: &Weight,
        _: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        if self.drops() || !self.is_cheaper_in_factors() {
            return None;
        }
        let [a, b] = self.factors();
        let joined = can_join(x, weight, &[&a, &b]);
        joined.then(|| lora_linear(x.clone(), weight.clone(), a, b, self.scaling, rounded))
    }

    fn merge(&self, weight: Tensor<2>, _: &Weight) -> Tensor<2> {
        weight + self.delta()
    }

    /// Of rank r².
    fn update(&self) -> Option<Update<'_>> {
        let [a, b] = self.factors();
        Some(Update { low_rank: LowRank::new(a, b, self.scaling), magnitude: None })
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
    use crate::testing::close;
    use burn::tensor::Device;

    /// Sizes where the factors are cheaper, and where the update itself is.
    const SIZES: [[usize; 3]; 2] = [[24, 20, 2], [6, 5, 4]];

    fn loha([out, inp, r]: [usize; 3], zero: bool) -> LoHa {
        LoHa::init(&Tensor::zeros([out, inp], &Device::flex()).into(), r, 1.5, zero, &mut TensorRng::new(1, "h"))
    }

    #[test]
    fn the_update_is_that_of_the_merged_weight_in_either_form() {
        let device = Device::flex();
        for ([out, inp, r], in_factors) in SIZES.into_iter().zip([true, false]) {
            let loha = loha([out, inp, r], false);
            assert_eq!(loha.is_cheaper_in_factors(), in_factors);
            let x = from_vec(TensorRng::new(2, "x").normal(3 * inp, 1.0), [3, inp], &device).val();
            let base = Tensor::zeros([out, inp], &device);
            let direct = x.clone().matmul(loha.merge(base.clone(), &base.clone().into()).transpose());
            close(loha.apply(Tensor::zeros([3, out], &device), x, &base.clone().into(), None), direct);
            close(loha.update().unwrap().low_rank.delta(), loha.delta());
        }
    }

    #[test]
    fn it_begins_as_zero() {
        assert_eq!(loha(SIZES[0], true).delta().abs().max().into_scalar::<f32>(), 0.0);
        assert!(loha(SIZES[0], false).delta().abs().max().into_scalar::<f32>() > 1e-3);
    }

    #[test]
    fn whole_outputs_or_all_of_it_drop_in_training_only() {
        let (device, [out, inp, r]) = (Device::flex(), SIZES[0]);
        let (x, base) = (Tensor::ones([2, inp], &device), Tensor::zeros([out, inp], &device));
        let apply =
            |loha: &LoHa| loha.apply(Tensor::zeros([2, out], &device), x.clone(), &base.clone().into(), None).inner();
        let mut loha = loha([out, inp, r], false);
        let whole = apply(&loha);
        loha.rank_dropout = 0.5;
        close(apply(&loha), whole.clone());
        let training = loha.clone().train();
        let dropped = apply(&training);
        let zeros = dropped.clone().equal_elem(0.0).int().sum().into_scalar::<i64>() as usize;
        assert!(zeros > 0 && zeros < 2 * out && zeros.is_multiple_of(2), "{zeros}");
        let scale = out as f64 / (out - zeros / 2) as f64;
        let kept = dropped.clone().equal_elem(0.0).bool_not().float();
        close(dropped, whole.clone().mul_scalar(scale) * kept);
        (loha.rank_dropout, loha.module_dropout) = (0.0, 0.5);
        let training = loha.train();
        let sums: Vec<f32> = (0..32).map(|_| apply(&training).abs().sum().into_scalar::<f32>()).collect();
        let all = whole.abs().sum().into_scalar::<f32>();
        assert!(sums.iter().all(|sum| *sum == 0.0 || (sum - all).abs() < 1e-3 * all));
        assert!(sums.contains(&0.0) && sums.iter().any(|sum| *sum > 0.0));
    }
}
