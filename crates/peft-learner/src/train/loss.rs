//! Cross-entropy of next tokens, without the whole matrix of logits.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use fused_burn::{LogitRule, Weight};
use llama_burn::{AttentionMask, CausalModel, Input};

use crate::data::Batch;

/// Entries of the logits that exist at a time: 32 MiB in f32.
const CHUNK_ELEMENTS: usize = 8 << 20;

/// The model's input for a batch.
pub fn input(batch: &Batch, device: &Device) -> Input {
    let ids = Tensor::from_data(TensorData::new(batch.input_ids.clone(), [batch.batch, batch.seq]), device);
    // Padding is on the right, where causal attention hides it from everything that has a target.
    match (&batch.segments, &batch.positions) {
        (Some(segments), Some(positions)) => {
            let rows = |v: &[i32]| v.chunks(batch.seq).map(<[i32]>::to_vec).collect::<Vec<_>>();
            let positions = positions.chunks(batch.seq).map(|r| r.iter().map(|&p| p as usize).collect()).collect();
            Input::new(ids).with_mask(AttentionMask::Segments(rows(segments))).with_positions(positions)
        }
        _ => Input::new(ids),
    }
}

/// The batch's share of its step's loss, `[1]`: the sum over its targets, over the number of targets of the whole step.
pub fn batch_loss<M: CausalModel>(model: &M, batch: &Batch) -> Tensor<1> {
    let device = model.device();
    let int = |v: &[i32]| Tensor::<1, Int>::from_data(TensorData::new(v.to_vec(), [v.len()]), &device);
    if batch.target_ids.is_empty() {
        return Tensor::zeros([1], (&device, DType::F32));
    }
    let hidden = model.hidden(&input(batch, &device), None);
    let hidden = hidden.select(0, int(&batch.target_positions));
    cross_entropy(model, hidden, int(&batch.target_ids), 1.0 / batch.step_targets.max(1) as f64)
}

/// The summed negative log-likelihood (nats) of `targets` (`[n]`) given the rows of `hidden` (`[n, hidden]`), times
/// `scale`. The result has one element and can be differentiated.
///
/// Only `⌈n / chunk⌉` slices of the logits exist, one after another, and none is kept: the gradient is worked out in the
/// same pass as the loss. With an adapter on `lm_head` the logits are composed instead, and kept for backward.
pub fn cross_entropy<M: CausalModel>(model: &M, hidden: Tensor<2>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
    match model.head_weight() {
        Some(weight) => fused(hidden, weight, targets, scale, model.logit_rule()),
        None => composed(model, hidden, targets, scale),
    }
}

fn chunk_rows(vocab: usize) -> usize {
    (CHUNK_ELEMENTS / vocab.max(1)).max(16)
}

fn fused(hidden: Tensor<2>, weight: Weight, targets: Tensor<1, Int>, scale: f64, rule: LogitRule) -> Tensor<1> {
    let hidden = if hidden.dtype() == weight.dtype() { hidden } else { hidden.cast(weight.dtype()) };
    fused_burn::cross_entropy_with(hidden, weight, targets, scale, rule)
}

fn composed<M: CausalModel>(model: &M, hidden: Tensor<2>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
    let [n, width] = hidden.dims();
    let rows = chunk_rows(model.spec().vocab_size);
    let chunks = (0..n).step_by(rows).map(|start| {
        let end = (start + rows).min(n);
        let logits = model.logits(hidden.clone().slice([start..end, 0..width])).cast(DType::F32);
        let target = targets.clone().slice([start..end]).reshape([end - start, 1]);
        burn::tensor::activation::log_softmax(logits, 1).gather(1, target).sum().neg()
    });
    let zero = Tensor::zeros([1], (&hidden.device(), DType::F32));
    chunks.reduce(|a, b| a + b).unwrap_or(zero).mul_scalar(scale)
}
