//! VeRA's frozen pair, which the layers of a model share.

use burn::module::{Module, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{Method, Vera};
use crate::constant::Constant;
use crate::model::AdaptableModel;
use crate::mt19937::vera_projection;
use crate::param::from_vec;

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

    /// The rank.
    pub fn rank(&self) -> usize {
        self.a.val().dims()[0]
    }

    /// Whether it is the same pair, on whatever device.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// The part of A for `inputs` inputs: `[r, inputs]`.
    pub(super) fn a(&self, inputs: usize) -> Tensor<2> {
        self.a.val().narrow(1, 0, inputs)
    }

    /// The part of B for `outputs` outputs: `[outputs, r]`.
    pub(super) fn b(&self, outputs: usize) -> Tensor<2> {
        self.b.val().narrow(0, 0, outputs)
    }

    fn shapes(&self) -> [[usize; 2]; 2] {
        self.tensors().map(|t| t.dims())
    }
}

/// All VeRA adapters of a model, with the names of their adapters.
fn all<M: AdaptableModel>(model: &M) -> impl Iterator<Item = (String, Vera)> {
    let layers = model.layers().into_iter().filter_map(|(_, layer)| layer.linear());
    let found = layers.flat_map(|l| l.adapters().iter()).filter_map(|(name, a)| match &a.method {
        Some(Method::Vera(vera)) => Some((name.to_owned(), vera.clone())),
        _ => None,
    });
    found.collect::<Vec<_>>().into_iter()
}

/// Puts `change`'s projection into every VeRA adapter, by adapter name and present projection.
fn replace<M: AdaptableModel>(model: &mut M, mut change: impl FnMut(&str, VeraProjection) -> VeraProjection) {
    for (_, layer) in model.layers_mut() {
        let Some(linear) = layer.linear() else { continue };
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
        let same = |p: &&VeraProjection| p.is(&present) && p.a.val().device() == present.a.val().device();
        if let Some(shared) = known.iter().find(same) {
            return shared.clone();
        }
        known.push(present.clone());
        present
    });
}
