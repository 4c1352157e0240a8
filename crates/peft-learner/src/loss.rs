//! Cross-entropy of next tokens, without the whole matrix of logits.

use burn::tensor::{DType, Int, Tensor};
use llama_burn::Llama;

/// Entries of the logits that exist at a time: 32 MiB in f32.
const CHUNK_ELEMENTS: usize = 8 << 20;

/// The summed negative log-likelihood (nats) of `targets` (`[n]`) given the rows of `hidden` (`[n, hidden]`), times
/// `scale`. The result has one element and can be differentiated.
///
/// Only `⌈n / chunk⌉` slices of the logits exist, one after another, and none is kept: the gradient is worked out in the
/// same pass as the loss. With an adapter on `lm_head` the logits are composed instead, and kept for backward.
pub fn cross_entropy(model: &Llama, hidden: Tensor<2>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
    match model.head_weight() {
        Some(weight) => fused(hidden, weight, targets, scale),
        None => composed(model, hidden, targets, scale),
    }
}

fn chunk_rows(vocab: usize) -> usize {
    (CHUNK_ELEMENTS / vocab).max(16)
}

fn fused(hidden: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
    let hidden = if hidden.dtype() == weight.dtype() { hidden } else { hidden.cast(weight.dtype()) };
    llama_burn::ops::cross_entropy(hidden, weight, targets, scale)
}

fn composed(model: &Llama, hidden: Tensor<2>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
    let [n, width] = hidden.dims();
    let rows = chunk_rows(model.config().vocab_size);
    let chunks = (0..n).step_by(rows).map(|start| {
        let end = (start + rows).min(n);
        let logits = model.logits(hidden.clone().slice([start..end, 0..width])).cast(DType::F32);
        let target = targets.clone().slice([start..end]).reshape([end - start, 1]);
        burn::tensor::activation::log_softmax(logits, 1).gather(1, target).sum().neg()
    });
    let zero = Tensor::zeros([1], (&hidden.device(), DType::F32));
    chunks.reduce(|a, b| a + b).unwrap_or(zero).mul_scalar(scale)
}
