//! Rotary position embedding in Hugging Face's half-split layout.

use burn::tensor::{DType, Device, Tensor, TensorData};
use fused_burn::rope;

/// The cosines and sines of a batch's positions.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[seq or batch·seq, head_dim / 2]`.
    cos: Tensor<2>,
    /// `[seq or batch·seq, head_dim / 2]`.
    sin: Tensor<2>,
}

impl Rotation {
    /// For rows of `positions`, one row for the whole batch or one each, all of the same length.
    pub fn new(inv_freq: &[f64], positions: &[Vec<usize>], device: &Device) -> Self {
        let (rows, half) = (positions.iter().map(Vec::len).sum(), inv_freq.len());
        // In f32, as transformers: the angle of a late position is rounded the same way.
        let angles: Vec<f32> =
            positions.iter().flatten().flat_map(|&p| inv_freq.iter().map(move |&f| p as f32 * f as f32)).collect();
        let table = |f: fn(f32) -> f32| {
            let values = angles.iter().map(|&a| f(a)).collect();
            Tensor::from_data(TensorData::new::<f32, _>(values, [rows, half]), (device, DType::F32))
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// Turns the heads of `x` (`[batch·seq, heads·head_dim]`).
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        let dtype = x.dtype();
        let like_x = |t: &Tensor<2>| if dtype == DType::F32 { t.clone() } else { t.clone().cast(dtype) };
        rope(x, like_x(&self.cos), like_x(&self.sin))
    }
}
