//! VeRA's frozen pair, which the layers of a model share.

use burn::module::{Module, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::mt19937::vera_projection;
use crate::constant::Constant;
use crate::param::from_vec;

/// Names of the pair in adapter files.
pub(super) const PROJECTION_NAMES: [&str; 2] = ["base_model.vera_A", "base_model.vera_B"];

/// The key that a pair is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairKey {
    /// The seed of its random numbers.
    pub key: u64,
    /// The rank.
    pub r: usize,
    /// Inputs of the largest layer.
    pub max_in: usize,
    /// Outputs of the largest layer.
    pub max_out: usize,
}

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
    /// The pair that PEFT draws, bit for bit.
    pub fn draw(PairKey { key, r, max_in, max_out }: PairKey, device: &Device) -> Self {
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

    /// The id that tells it from other pairs.
    pub(crate) fn id(&self) -> ParamId {
        self.id
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

    /// Whether it is the pair that [`Self::draw`] makes.
    pub(crate) fn is_drawn_as(&self, PairKey { key, r, max_in, max_out }: PairKey) -> bool {
        let shapes = self.tensors().map(|t| t.dims());
        self.key == Some(key) && shapes == [[r, max_in], [max_out, r]]
    }

    /// The pair with the values of a file, or this one where those are its values.
    pub(crate) fn or_of_file(&self, [a, b]: [TensorData; 2]) -> Self {
        let bits = |data: &TensorData| data.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        let [old_a, old_b] = self.tensors().map(Tensor::into_data);
        if bits(&a) == bits(&old_a) && bits(&b) == bits(&old_b) {
            return self.clone();
        }
        let device = self.a.val().device();
        let [a, b] = [a, b].map(|data| Constant::new(Tensor::from_data(data, (&device, DType::F32))));
        Self { a, b, id: ParamId::new(), key: None }
    }
}
