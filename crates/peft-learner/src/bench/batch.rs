//! The rows that a measurement trains on.

use burn::tensor::{Int, Tensor, TensorData};
use llama_burn::{Input, Llama};

use super::config::BenchConfig;
use crate::train::cross_entropy;

/// Fixed pseudo-random tokens: `id[i] = (i·7919 + 13) mod vocab`.
pub(super) struct Batch {
    input: Input,
    /// Rows of the residual stream that have a target.
    positions: Tensor<1, Int>,
    targets: Tensor<1, Int>,
}

impl Batch {
    pub(super) fn new(config: &BenchConfig, vocab: usize) -> Self {
        let id = |i: usize| ((i * 7919 + 13) % vocab) as u32;
        let rows: Vec<Vec<u32>> =
            (0..config.batch).map(|b| (0..config.seq).map(|t| id(b * config.seq + t)).collect()).collect();
        // The last token of a row predicts nothing, and the prompt is not predicted.
        let predicts = |i: &usize| (i + 1) % config.seq >= config.prompt.max(1);
        let at: Vec<usize> = (0..config.batch * config.seq).filter(predicts).collect();
        let ints = |values: Vec<i32>| Tensor::from_data(TensorData::new(values, [at.len()]), &config.device);
        Self {
            input: Input::from_rows(&rows, &config.device),
            positions: ints(at.iter().map(|&i| i as i32).collect()),
            targets: ints(at.iter().map(|&i| id(i + 1) as i32).collect()),
        }
    }

    pub(super) fn loss(&self, model: &Llama) -> Tensor<1> {
        let n = self.targets.dims()[0] as f64;
        let hidden = model.hidden(&self.input, None).select(0, self.positions.clone());
        cross_entropy(model, hidden, self.targets.clone(), 1.0 / n)
    }
}
