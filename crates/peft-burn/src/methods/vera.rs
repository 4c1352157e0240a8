//! VeRA (Kopiczko et al. 2023, arXiv:2310.11454): `y = x·Wᵀ + b + λ_b ∘ ((λ_d ∘ (x·Aᵀ))·Bᵀ)`.
//!
//! A and B are random, frozen and one pair for the whole model: a layer uses the first columns of A and the first rows
//! of B. Only the vectors λ are learned. The pair follows from a key alone, is always f32, and every adapter of the
//! model with that key and those sizes shares it.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{Method, dropout};
use crate::constant::Constant;
use crate::low_rank::LowRank;
use crate::model::{AdaptableModel, LayerMut, LayerRef};
use crate::mt19937::vera_projection;
use crate::param::{ParamMut, ParamRef, from_vec};
use crate::random::TensorRng;

/// Names of the pair in adapter files.
pub(crate) const PROJECTION_NAMES: [&str; 2] = ["base_model.vera_A", "base_model.vera_B"];

/// The frozen pair. Clones share its memory.
#[derive(Module, Debug)]
pub struct VeraProjection {
    /// A: `[r, largest in]`.
    a: Constant<2>,
    /// B: `[largest out, r]`.
    b: Constant<2>,
    /// Which pair it is: clones have the same, also on another device.
    #[module(skip)]
    id: ParamId,
    /// The key that it was drawn from; `None` where a file gave other values.
    #[module(skip)]
    key: Option<u64>,
}

impl VeraProjection {
    /// The pair that PEFT draws for `key`, bit for bit.
    pub fn draw(key: u64, r: usize, max_in: usize, max_out: usize, device: &Device) -> Self {
        let (a, b) = vera_projection(key, r, max_in, max_out);
        let tensor = |values, shape: [usize; 2]| from_vec(values, shape, device).val();
        let (a, b) = (Constant::new(tensor(a, [r, max_in])), Constant::new(tensor(b, [max_out, r])));
        Self { a, b, id: ParamId::new(), key: Some(key) }
    }

    /// A (`[r, largest in]`) and B (`[largest out, r]`).
    pub fn tensors(&self) -> [Tensor<2>; 2] {
        [self.a.val(), self.b.val()]
    }

    fn shapes(&self) -> [[usize; 2]; 2] {
        self.tensors().map(|t| t.dims())
    }
}

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
        weight: &Tensor<2>,
        d_initial: Option<f64>,
        dropout: f64,
        rng: &mut TensorRng,
    ) -> Self {
        let ([out, inputs], device) = (weight.dims(), weight.device());
        let [[r, _], _] = projection.shapes();
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
        self.projection.a.val().narrow(1, 0, self.inputs)
    }

    /// The layer's part of B: `[out, r]`.
    fn b(&self) -> Tensor<2> {
        let [out] = self.lambda_b.val().dims();
        self.projection.b.val().narrow(0, 0, out)
    }

    fn training(&self) -> bool {
        self.lambda_b.val().is_require_grad()
    }

    /// Whether [`Self::project`] of this layer serves `other` too, for the same x. With dropout each layer drops
    /// inputs of its own.
    pub fn shares_projection_of_input(&self, other: &Self) -> bool {
        let drops = |vera: &Self| vera.dropout > 0.0 && vera.training();
        self.projection.id == other.projection.id && self.inputs == other.inputs && !drops(self) && !drops(other)
    }

    /// `x·Aᵀ` for `x` (`[n, in]`, f32), dropped out in training: `[n, r]`.
    pub fn project(&self, x: Tensor<2>) -> Tensor<2> {
        dropout(x, self.dropout, self.training()).matmul(self.a().transpose())
    }

    /// The update for `low` = [`Self::project`]`(x)`: `[n, out]`.
    pub fn expand(&self, low: Tensor<2>) -> Tensor<2> {
        (low * self.lambda_d.val().unsqueeze()).matmul(self.b().transpose()) * self.lambda_b.val().unsqueeze()
    }

    /// The update for `x` (`[n, in]`, f32): `[n, out]`.
    pub fn update(&self, x: Tensor<2>) -> Tensor<2> {
        self.expand(self.project(x))
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

    /// The update.
    pub(crate) fn low_rank(&self) -> LowRank {
        let [a, b] = self.scaled();
        LowRank::new(a, b, 1.0)
    }

    /// Parameters by the names that PEFT gives them on disk.
    pub fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        vec![("vera_lambda_b", ParamRef::from(&self.lambda_b)), ("vera_lambda_d", ParamRef::from(&self.lambda_d))]
    }

    /// As [`Self::params`], to write into.
    pub fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![
            ("vera_lambda_b", ParamMut::from(&mut self.lambda_b)),
            ("vera_lambda_d", ParamMut::from(&mut self.lambda_d)),
        ]
    }
}

/// All VeRA adapters of a model, with the names of their adapters.
fn all<M: AdaptableModel>(model: &M) -> impl Iterator<Item = (String, Vera)> {
    let layers = model.layers().into_iter().filter_map(|(_, layer)| match layer {
        LayerRef::Linear(linear) => Some(linear),
        LayerRef::Embedding(_) => None,
    });
    let found = layers.flat_map(|l| l.adapters()).filter_map(|(name, a)| match &a.method {
        Some(Method::Vera(vera)) => Some((name.clone(), vera.clone())),
        _ => None,
    });
    found.collect::<Vec<_>>().into_iter()
}

/// Puts `change`'s projection into every VeRA adapter, by adapter name and present projection.
fn replace<M: AdaptableModel>(model: &mut M, mut change: impl FnMut(&str, VeraProjection) -> VeraProjection) {
    for (_, layer) in model.layers_mut() {
        let LayerMut::Linear(linear) = layer else { continue };
        for (name, method) in linear.methods_mut() {
            if let Method::Vera(vera) = method {
                vera.projection = change(name, vera.projection.clone());
            }
        }
    }
}

/// The pair for `key` and these sizes: one that an adapter of `model` has already, or a new one.
pub(crate) fn projection_for<M: AdaptableModel>(
    model: &M,
    key: u64,
    [r, max_in, max_out]: [usize; 3],
    device: &Device,
) -> VeraProjection {
    let fits = |p: &VeraProjection| p.key == Some(key) && p.shapes() == [[r, max_in], [max_out, r]];
    let existing = all(model).map(|(_, vera)| vera.projection).find(fits);
    existing.unwrap_or_else(|| VeraProjection::draw(key, r, max_in, max_out, device))
}

/// The pair of the adapter `name`.
pub(crate) fn projection_of<M: AdaptableModel>(model: &M, name: &str) -> Option<VeraProjection> {
    all(model).find(|(n, _)| n == name).map(|(_, vera)| vera.projection)
}

/// Gives the adapter `name` the pair `[a, b]` of its file. Where that is the pair it has, nothing changes.
pub(crate) fn set_projection<M: AdaptableModel>(model: &mut M, name: &str, [a, b]: [TensorData; 2]) {
    let Some(old) = projection_of(model, name) else { return };
    let bits = |data: &TensorData| data.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
    let [old_a, old_b] = old.tensors().map(Tensor::into_data);
    if bits(&a) == bits(&old_a) && bits(&b) == bits(&old_b) {
        return;
    }
    let device = old.a.val().device();
    let [a, b] = [a, b].map(|data| Constant::new(Tensor::from_data(data, (&device, DType::F32))));
    let new = VeraProjection { a, b, id: ParamId::new(), key: None };
    replace(model, |n, present| if n == name { new.clone() } else { present });
}

/// Lets all layers on a device share one copy of each pair again: moving a model to another device copies the pair once
/// for every layer.
pub fn share_projections<M: AdaptableModel>(model: &mut M) {
    let mut known: Vec<VeraProjection> = Vec::new();
    replace(model, |_, present| {
        let same = |p: &&VeraProjection| p.id == present.id && p.a.val().device() == present.a.val().device();
        if let Some(shared) = known.iter().find(same) {
            return shared.clone();
        }
        known.push(present.clone());
        present
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Tolerance;

    fn vera(out: usize, inp: usize, projection: &VeraProjection) -> Vera {
        let weight = Tensor::zeros([out, inp], &Device::flex());
        Vera::init(projection.clone(), &weight, None, 0.0, &mut TensorRng::new(1, "v"))
    }

    #[test]
    fn layers_of_all_sizes_use_a_part_of_one_pair() {
        let device = Device::flex();
        let pair = VeraProjection::draw(0, 4, 10, 8, &device);
        for (out, inp) in [(8, 10), (3, 10), (8, 5), (2, 7)] {
            let vera = vera(out, inp, &pair);
            let x = from_vec(TensorRng::new(2, "x").normal(3 * inp, 1.0), [3, inp], &device).val();
            let direct = x.clone().matmul(vera.delta().transpose());
            vera.update(x.clone()).into_data().assert_approx_eq::<f32>(&direct.into_data(), Tolerance::absolute(1e-5));
            let training = vera.clone().train();
            assert!(training.update(x).is_autodiff());
        }
    }

    #[test]
    fn the_projected_input_is_shared_by_layers_of_one_pair_and_width() {
        let device = Device::flex();
        let [pair, other] = [1, 2].map(|key| VeraProjection::draw(key, 4, 10, 8, &device));
        let q = vera(8, 10, &pair);
        assert!(q.shares_projection_of_input(&vera(3, 10, &pair)));
        assert!(!q.shares_projection_of_input(&vera(8, 9, &pair)));
        assert!(!q.shares_projection_of_input(&vera(8, 10, &other)));
        let dropping = Vera { dropout: 0.5, ..vera(8, 10, &pair) };
        assert!(q.shares_projection_of_input(&dropping));
        assert!(!q.clone().train().shares_projection_of_input(&dropping.train()));
    }
}
