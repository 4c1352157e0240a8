//! VeRA (Kopiczko et al. 2023, arXiv:2310.11454): `y = x·Wᵀ + b + λ_b ∘ ((λ_d ∘ (x·Aᵀ))·Bᵀ)`.
//!
//! A and B are random, frozen and one pair for the whole model: a layer uses the first columns of A and the first rows
//! of B. Only the vectors λ are learned. The pair follows from a key alone, is always f32, and every adapter of the
//! model with that key and those sizes shares it.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use fused_burn::{RowShared, RowUpdate, Weight, can_join, linear, scale_columns};

use super::op::{VeraVectors, vera_linear};
use super::projection::VeraProjection;
use crate::low_rank::LowRank;
use crate::methods::dropout::dropout;
use crate::methods::traits::{MethodLayer, SharedInput, Update};
use crate::param::{ParamMut, ParamRef, from_vec};
use crate::random::TensorRng;
use crate::serve::{Pairs, Served, host};

/// A VeRA adapter of one linear layer.
#[derive(Module, Debug)]
pub struct Vera {
    /// λ_b: `[out]`.
    pub lambda_b: Param<Tensor<1>>,
    /// λ_d: `[r]`.
    pub lambda_d: Param<Tensor<1>>,
    projection: VeraProjection,
    inputs: usize,
    /// Probability of dropping an input in training.
    pub dropout: f64,
}

impl Vera {
    /// Makes the adapter for `weight` (`[out, in]`): λ_b = 0 and λ_d = `d_initial`, or with `None` λ_b = 1 and
    /// λ_d ~ N(0, 1).
    pub fn init(
        projection: VeraProjection,
        weight: &Weight,
        d_initial: Option<f64>,
        dropout: f64,
        rng: &mut TensorRng,
    ) -> Self {
        let ([out, inputs], device) = (weight.dims(), weight.device());
        let r = projection.rank();
        let (b, d) = match d_initial {
            Some(d) => (vec![0.0; out], vec![d as f32; r]),
            None => (vec![1.0; out], rng.normal(r, 1.0)),
        };
        let (lambda_b, lambda_d) = (from_vec(b, [out], &device), from_vec(d, [r], &device));
        Self { lambda_b, lambda_d, projection: projection.to_device(&device), inputs, dropout }
    }

    /// The frozen pair.
    pub fn projection(&self) -> &VeraProjection {
        &self.projection
    }

    /// The layer's part of A: `[r, in]`.
    fn a(&self) -> Tensor<2> {
        self.projection.a(self.inputs)
    }

    /// The layer's part of B: `[out, r]`.
    fn b(&self) -> Tensor<2> {
        let [out] = self.lambda_b.val().dims();
        self.projection.b(out)
    }

    fn training(&self) -> bool {
        self.lambda_b.val().is_require_grad()
    }

    /// The update for `low` = [`MethodLayer::project_input`]`(x)`: `[n, out]`.
    pub fn expand(&self, low: Tensor<2>) -> Tensor<2> {
        let low = scale_columns(low, self.lambda_d.val());
        scale_columns(linear(low, self.b()), self.lambda_b.val())
    }

    /// `(λ_b ∘ B)·(λ_d ∘ A)`: `[out, in]`.
    pub fn delta(&self) -> Tensor<2> {
        let [a, b] = self.scaled();
        b.matmul(a)
    }

    /// λ_d ∘ A and λ_b ∘ B.
    fn scaled(&self) -> [Tensor<2>; 2] {
        let scale = |m: Tensor<2>, by: &Param<Tensor<1>>| m * by.val().unsqueeze_dim(1);
        [scale(self.a(), &self.lambda_d), scale(self.b(), &self.lambda_b)]
    }
}

impl MethodLayer for Vera {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        vec![("vera_lambda_b", ParamRef::from(&self.lambda_b)), ("vera_lambda_d", ParamRef::from(&self.lambda_d))]
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("vera_lambda_b", ParamMut::from(&mut self.lambda_b)),
            ("vera_lambda_d", ParamMut::from(&mut self.lambda_d)),
        ]
    }

    fn apply(&self, product: Tensor<2>, x: Tensor<2>, _: &Weight, low: Option<&Tensor<2>>) -> Tensor<2> {
        product + self.expand(low.cloned().unwrap_or_else(|| self.project_input(x)))
    }

    fn project(
        &self,
        x: &Tensor<2>,
        weight: &Weight,
        _: &Weight,
        low: Option<&Tensor<2>>,
        rounded: bool,
    ) -> Option<Tensor<2>> {
        let b = self.b();
        if !can_join(x, weight, &[&b]) {
            return None;
        }
        let low = low.cloned().unwrap_or_else(|| self.project_input(x.clone().cast(DType::F32)));
        let vectors = VeraVectors { d: self.lambda_d.val(), b: self.lambda_b.val() };
        Some(vera_linear(x.clone(), weight.clone(), low, b, vectors, rounded))
    }

    fn merge(&self, weight: Tensor<2>, _: &Weight) -> Tensor<2> {
        weight + self.delta()
    }

    /// `x·Aᵀ`, for layers of one pair and width. With dropout each layer drops inputs of its own.
    fn shared_input(&self) -> Option<SharedInput> {
        let drops = self.dropout > 0.0 && self.training();
        (!drops).then_some(SharedInput { factor: self.projection.id(), inputs: self.inputs })
    }

    fn project_input(&self, x: Tensor<2>) -> Tensor<2> {
        linear(dropout(x, self.dropout, self.training()), self.a())
    }

    fn serve(&self, _: &Weight, pairs: &Pairs) -> Option<Served> {
        let [d, b] = [&self.lambda_d, &self.lambda_b].map(|vector| host(vector.val()));
        let shared = Some(RowShared { pair: pairs.of(&self.projection), d, b });
        Some(Served { update: RowUpdate { shared, ..RowUpdate::default() }, ..Served::default() })
    }

    fn shared_pair(&self) -> Option<&VeraProjection> {
        Some(&self.projection)
    }

    fn shared_pair_mut(&mut self) -> Option<&mut VeraProjection> {
        Some(&mut self.projection)
    }

    fn update(&self) -> Option<Update<'_>> {
        let [a, b] = self.scaled();
        Some(Update { low_rank: LowRank::new(a, b, 1.0), magnitude: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::vera::PairKey;
    use burn::tensor::{Device, Tolerance};

    fn vera(out: usize, inp: usize, projection: &VeraProjection) -> Vera {
        let weight = Tensor::zeros([out, inp], &Device::flex());
        Vera::init(projection.clone(), &weight.into(), None, 0.0, &mut TensorRng::new(1, "v"))
    }

    #[test]
    fn layers_of_all_sizes_use_a_part_of_one_pair() {
        let device = Device::flex();
        let pair = VeraProjection::draw(PairKey { key: 0, r: 4, max_in: 10, max_out: 8 }, &device);
        for (out, inp) in [(8, 10), (3, 10), (8, 5), (2, 7)] {
            let vera = vera(out, inp, &pair);
            let x = from_vec(TensorRng::new(2, "x").normal(3 * inp, 1.0), [3, inp], &device).val();
            let direct = x.clone().matmul(vera.delta().transpose());
            vera.expand(vera.project_input(x.clone()))
                .into_data()
                .assert_approx_eq::<f32>(&direct.into_data(), Tolerance::absolute(1e-5));
            let training = vera.clone().train();
            assert!(training.expand(training.project_input(x)).is_autodiff());
        }
    }

    #[test]
    fn the_projected_input_is_shared_by_layers_of_one_pair_and_width() {
        let device = Device::flex();
        let [pair, other] =
            [1, 2].map(|key| VeraProjection::draw(PairKey { key, r: 4, max_in: 10, max_out: 8 }, &device));
        let shares = |a: &Vera, b: &Vera| a.shared_input().is_some() && a.shared_input() == b.shared_input();
        let q = vera(8, 10, &pair);
        assert!(shares(&q, &vera(3, 10, &pair)));
        assert!(!shares(&q, &vera(8, 9, &pair)));
        assert!(!shares(&q, &vera(8, 10, &other)));
        let dropping = Vera { dropout: 0.5, ..vera(8, 10, &pair) };
        assert!(shares(&q, &dropping));
        assert!(!shares(&q.clone().train(), &dropping.train()));
    }
}
