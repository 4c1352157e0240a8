//! Rotary position embedding in Hugging Face's half-split layout.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// The cosines and sines of a batch's positions.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[1 or batch, 1, seq, head_dim]`.
    cos: Tensor<4>,
    /// `[1 or batch, 1, seq, head_dim]`, negative in the first half.
    signed_sin: Tensor<4>,
}

impl Rotation {
    /// For rows of `positions`, one row for the whole batch or one each, all of the same length.
    pub fn new(inv_freq: &[f64], positions: &[Vec<usize>], device: &Device) -> Self {
        let (rows, seq, half) = (positions.len(), positions.first().map_or(0, Vec::len), inv_freq.len());
        let mut cos = Vec::with_capacity(rows * seq * half * 2);
        let mut sin = Vec::with_capacity(rows * seq * half * 2);
        for &position in positions.iter().flatten() {
            // In f32, as transformers: the angle of a late position is rounded the same way.
            let angles = || inv_freq.iter().map(move |&f| position as f32 * f as f32);
            cos.extend(angles().chain(angles()).map(f32::cos));
            sin.extend(angles().map(|a| -a.sin()).chain(angles().map(f32::sin)));
        }
        let tensor =
            |values| Tensor::from_data(TensorData::new(values, [rows, 1, seq, half * 2]), (device, DType::F32));
        Self { cos: tensor(cos), signed_sin: tensor(sin) }
    }

    /// Turns `x` (`[batch, heads, seq, head_dim]`): `x·cos + rotate_half(x)·sin`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let dtype = x.dtype();
        let [b, h, s, d] = x.dims();
        let first = x.clone().slice([0..b, 0..h, 0..s, 0..d / 2]);
        let second = x.clone().slice([0..b, 0..h, 0..s, d / 2..d]);
        let swapped = Tensor::cat(vec![second, first], 3);
        x * self.cos.clone().cast(dtype) + swapped * self.signed_sin.clone().cast(dtype)
    }
}
