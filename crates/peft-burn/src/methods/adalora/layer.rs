//! AdaLoRA (Zhang et al. 2023, arXiv:2303.10512): `y = x·Wᵀ + b + s·((E ∘ (x·Aᵀ))·Bᵀ)`, where training takes away the
//! triplets (a row of A, an entry of E, a column of B) that matter least; [`crate::adalora`] decides which.
//!
//! `s` is `alpha / (init_r + 10⁻⁵)` also when triplets are gone: pruning does not rescale what is left.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use fused_burn::{Weight, can_join};

use super::config::AdaLoraConfig;
use super::importance::Importance;
use super::triplets::keep;
use crate::config::InitLoraWeights;
use crate::error::{Result, Unsupported};
use crate::low_rank::LowRank;
use crate::methods::dropout::dropout;
use crate::methods::lora::op::lora_linear;
use crate::methods::traits::{MethodLayer, Update};
use crate::param::{ParamMut, ParamRef, from_vec};
use crate::random::TensorRng;

/// An AdaLoRA adapter of one linear layer.
#[derive(Module, Debug)]
pub struct AdaLora {
    /// A: `[r, in]`.
    pub lora_a: Param<Tensor<2>>,
    /// E: `[r, 1]`.
    pub lora_e: Param<Tensor<2>>,
    /// B: `[out, r]`.
    pub lora_b: Param<Tensor<2>>,
    /// The averages of training over the triplets; `None` until the adapter is trained.
    pub(crate) importance: Option<Importance>,
    /// Factor of the update.
    pub scaling: f64,
    /// Probability of dropping an input in training.
    pub dropout: f64,
    /// Which of the triplets that training began with are here.
    #[module(skip)]
    pub(crate) places: Vec<usize>,
    init_r: usize,
}

impl AdaLora {
    /// Makes the adapter for `weight` (`[out, in]`) at `path`. Triplets that the configuration's `rank_pattern` has
    /// pruned are left out; none may be left.
    pub fn init(config: &AdaLoraConfig, path: &str, weight: &Weight, rng: &mut TensorRng) -> Self {
        let ([out, inp], device) = (weight.dims(), weight.device());
        let init_r = config.init_r;
        let kept = config.mask_for(path);
        let places: Vec<_> = (0..init_r).filter(|&i| kept.is_none_or(|k| k.get(i) == Some(&true))).collect();
        let r = places.len();
        let random = config.init_lora_weights == InitLoraWeights::Random;
        let std = if random { 1.0 } else { 0.02 };
        let e = if random { rng.normal(r, 1.0) } else { vec![0.0; r] };
        Self {
            lora_a: from_vec(rng.normal(r * inp, std), [r, inp], &device),
            lora_e: from_vec(e, [r, 1], &device),
            lora_b: from_vec(rng.normal(out * r, std), [out, r], &device),
            importance: None,
            scaling: config.scaling() / (init_r as f64 + 1e-5),
            dropout: config.lora_dropout,
            places,
            init_r,
        }
    }

    /// The number of triplets in memory.
    pub fn rank(&self) -> usize {
        self.places.len()
    }

    /// Which of the triplets in memory take part, or may again: those that the last mask kept, and those that came
    /// alive since.
    pub(crate) fn live(&self) -> Vec<bool> {
        let ones = |t: Tensor<2>| t.into_data().iter::<f32>().map(|v| v != 0.0).collect::<Vec<_>>();
        match &self.importance {
            _ if self.rank() == 0 => Vec::new(),
            None => vec![true; self.rank()],
            Some(importance) => {
                let alive = ones(self.lora_e.val());
                ones(importance.mask()).into_iter().zip(alive).map(|(kept, alive)| kept || alive).collect()
            }
        }
    }

    /// `flags` of the triplets in memory as flags of those that training began with.
    pub(crate) fn of_all(&self, flags: &[bool]) -> Vec<bool> {
        let mut all = vec![false; self.init_r];
        self.places.iter().zip(flags).for_each(|(&place, &flag)| all[place] = flag);
        all
    }

    /// Which of the triplets in memory `pattern` has.
    pub(crate) fn held_of(&self, path: &str, pattern: &BTreeMap<String, Vec<bool>>) -> Result<Vec<bool>> {
        let flags = pattern.get(&format!("{path}.lora_E"));
        let held = flags.map(|flags| self.places.iter().map(|&place| flags.get(place).copied()).collect());
        Ok(held.flatten().ok_or_else(|| Unsupported::ForeignPattern { path: path.to_owned() })?)
    }

    /// Takes the triplets that are not flagged out of memory.
    pub(crate) fn keep(&mut self, flags: &[bool]) {
        if flags.iter().all(|kept| *kept) {
            return;
        }
        keep(&mut self.lora_a, 0, flags);
        keep(&mut self.lora_e, 0, flags);
        keep(&mut self.lora_b, 1, flags);
        self.importance.iter_mut().for_each(|importance| importance.keep(flags));
        let mut flags = flags.iter();
        self.places.retain(|_| flags.next() == Some(&true));
    }
}

impl MethodLayer for AdaLora {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        vec![("lora_A", (&self.lora_a).into()), ("lora_B", (&self.lora_b).into()), ("lora_E", (&self.lora_e).into())]
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("lora_A", (&mut self.lora_a).into()),
            ("lora_B", (&mut self.lora_b).into()),
            ("lora_E", (&mut self.lora_e).into()),
        ]
    }

    fn apply(&self, product: Tensor<2>, x: Tensor<2>, _: &Weight, _: Option<&Tensor<2>>) -> Tensor<2> {
        if self.rank() == 0 {
            return product;
        }
        let x = dropout(x, self.dropout, self.lora_a.val().is_require_grad());
        let low = x.matmul(self.lora_a.val().transpose()) * self.lora_e.val().transpose().mul_scalar(self.scaling);
        product + low.matmul(self.lora_b.val().transpose())
    }

    fn project(
        &self,
        x: &Tensor<2>,
        weight: &Weight,
        _: &Weight,
        _: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        if self.rank() == 0 || self.dropout > 0.0 && self.lora_a.val().is_require_grad() {
            return None;
        }
        let (a, b) = (self.lora_a.val() * self.lora_e.val(), self.lora_b.val());
        let joined = can_join(x, weight, &[&a, &b]);
        joined.then(|| lora_linear(x.clone(), weight.clone(), a, b, self.scaling, rounded))
    }

    fn merge(&self, weight: Tensor<2>, _: &Weight) -> Tensor<2> {
        if self.rank() == 0 {
            return weight;
        }
        let scaled = self.lora_a.val() * self.lora_e.val().mul_scalar(self.scaling);
        weight + self.lora_b.val().matmul(scaled)
    }

    /// Of the live triplets.
    fn update(&self) -> Option<Update<'_>> {
        let [out, inp] = [self.lora_b.val().dims()[0], self.lora_a.val().dims()[1]];
        let live: Vec<i32> = (0..).zip(self.live()).filter(|(_, live)| *live).map(|(i, _)| i).collect();
        let device = self.lora_a.val().device();
        if live.is_empty() {
            let none = LowRank::new(Tensor::zeros([1, inp], &device), Tensor::zeros([out, 1], &device), 1.0);
            return Some(Update { low_rank: none, magnitude: None });
        }
        let n = live.len();
        let live = Tensor::<1, Int>::from_data(TensorData::new(live, [n]), &device);
        let a = (self.lora_a.val() * self.lora_e.val()).select(0, live.clone());
        let low_rank = LowRank::new(a, self.lora_b.val().select(1, live), self.scaling);
        Some(Update { low_rank, magnitude: None })
    }

    fn is_spent(&self) -> bool {
        !self.live().contains(&true)
    }

    fn importance(&self) -> Option<&Importance> {
        self.importance.as_ref()
    }

    fn importance_mut(&mut self) -> Option<&mut Importance> {
        self.importance.as_mut()
    }

    fn rescale(&mut self, multiplier: f64) -> bool {
        self.scaling *= multiplier;
        true
    }

    /// Begins to keep what pruning needs.
    fn prepare_training(&mut self) {
        if self.importance.is_none() {
            self.importance = Some(Importance::new([&self.lora_a, &self.lora_e, &self.lora_b]));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use burn::tensor::{Device, Tolerance};

    fn adalora(kept: Option<Vec<bool>>) -> AdaLora {
        let config = AdaLoraConfig {
            init_r: 3,
            target_r: 2,
            init_lora_weights: InitLoraWeights::Random,
            rank_pattern: kept.map(|k| BTreeMap::from([("q.lora_E".to_owned(), k)])),
            ..AdaLoraConfig::default()
        };
        AdaLora::init(&config, "q", &Tensor::zeros([4, 5], &Device::flex()).into(), &mut TensorRng::new(1, "a"))
    }

    #[test]
    fn the_update_is_that_of_the_merged_weight_at_every_rank() {
        let device = Device::flex();
        let x = from_vec(TensorRng::new(2, "x").normal(10, 1.0), [2, 5], &device).val();
        for kept in [None, Some(vec![true, false, true]), Some(vec![false; 3])] {
            let adalora = adalora(kept);
            let base = Tensor::zeros([4, 5], &device);
            let merged = x.clone().matmul(adalora.merge(base.clone(), &base.clone().into()).transpose());
            let direct = adalora.apply(Tensor::zeros([2, 4], &device), x.clone(), &base.clone().into(), None);
            direct.into_data().assert_approx_eq::<f32>(&merged.into_data(), Tolerance::absolute(1e-5));
            assert!((adalora.scaling - 8.0 / 3.00001).abs() < 1e-9);
        }
    }

    #[test]
    fn flags_of_what_is_left_go_to_their_old_places() {
        let adalora = adalora(Some(vec![true, false, true]));
        assert_eq!(adalora.rank(), 2);
        assert_eq!(adalora.of_all(&[false, true]), [false, false, true]);
    }
}
