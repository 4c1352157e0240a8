//! The inputs of a forward pass.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::mask::AttentionMask;

/// The inputs of a forward pass.
#[derive(Clone, Debug)]
pub struct Input {
    /// Token ids, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// Position of each column, a row for the whole batch or one each. `None`: 0, 1, 2, … after what is cached.
    pub positions: Option<Vec<Vec<usize>>>,
    /// Which earlier columns a token sees.
    pub mask: AttentionMask,
}

impl Input {
    /// Rows of one length, causal, from position 0.
    pub fn new(ids: Tensor<2, Int>) -> Self {
        Self { ids, positions: None, mask: AttentionMask::Causal }
    }

    /// Rows given as numbers, all of one length.
    pub fn from_rows(rows: &[Vec<u32>], device: &Device) -> Self {
        let seq = rows.first().map_or(0, Vec::len);
        let ids: Vec<i32> = rows.iter().flatten().map(|&id| id as i32).collect();
        Self::new(Tensor::from_data(TensorData::new(ids, [rows.len(), seq]), device))
    }

    /// With another attention pattern.
    pub fn with_mask(mut self, mask: AttentionMask) -> Self {
        self.mask = mask;
        self
    }

    /// With positions of its own.
    pub fn with_positions(mut self, positions: Vec<Vec<usize>>) -> Self {
        self.positions = Some(positions);
        self
    }
}
