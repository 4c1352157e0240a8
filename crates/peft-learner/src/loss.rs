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
    let ([n, width], [vocab, _]) = (hidden.dims(), weight.dims());
    // `is_tracked` is false in validation and for frozen weights: then no gradient is worked out.
    let (track_hidden, track_weight) = (hidden.is_tracked(), weight.is_tracked());
    let (h, w) = (hidden.clone().without_autodiff(), weight.clone().without_autodiff());
    let targets = targets.without_autodiff();
    let mut sum = Tensor::<1>::zeros([1], (&h.device(), DType::F32));
    let mut hidden_grads = Vec::new();
    let mut weight_grad: Option<Tensor<2>> = None;
    let rows = chunk_rows(vocab);
    for start in (0..n).step_by(rows) {
        let end = (start + rows).min(n);
        let h = h.clone().slice([start..end, 0..width]);
        let target = targets.clone().slice([start..end]).reshape([end - start, 1]);
        let logits = h.clone().cast(w.dtype()).matmul(w.clone().transpose()).cast(DType::F32);
        let max = logits.clone().max_dim(1);
        let shifted = logits - max;
        let picked = shifted.clone().gather(1, target.clone());
        let exp = shifted.exp();
        let total = exp.clone().sum_dim(1);
        sum = sum + (total.clone().log() - picked).sum();
        if track_hidden || track_weight {
            let p = exp / total;
            let minus = Tensor::<2>::ones([end - start, 1], (&h.device(), DType::F32)).neg();
            let p = p.scatter(1, target, minus, burn::tensor::IndexingUpdateOp::Add).mul_scalar(scale);
            if track_weight {
                let grad = p.clone().transpose().matmul(h.cast(DType::F32));
                weight_grad = Some(match weight_grad {
                    Some(sum) => sum + grad,
                    None => grad,
                });
            }
            if track_hidden {
                hidden_grads.push(p.cast(w.dtype()).matmul(w.clone()));
            }
        }
    }
    let loss = sum.mul_scalar(scale);
    let mut surrogates = Vec::new();
    if track_hidden && !hidden_grads.is_empty() {
        surrogates.push(with_gradient(hidden, Tensor::cat(hidden_grads, 0)));
    }
    if let Some(grad) = weight_grad {
        surrogates.push(with_gradient(weight, grad));
    }
    let Some(surrogate) = surrogates.into_iter().reduce(|a, b| a + b) else {
        return loss;
    };
    // Zero in value; its gradient is the one worked out above.
    Tensor::from_inner(loss) + (surrogate.clone() - surrogate.detach())
}

/// A number whose gradient with respect to `x` is `grad`.
fn with_gradient(x: Tensor<2>, grad: Tensor<2>) -> Tensor<1> {
    let grad = Tensor::from_inner(grad.cast(x.dtype()));
    (x * grad).sum().cast(DType::F32)
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
