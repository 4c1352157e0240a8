//! In terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, IndexingUpdateOp, Shape, Slice};

use super::{CrossEntropyOps, LogitRule};
use crate::base_linear::BaseWeight;
use crate::precision::{cast, precise};

/// Entries of the logits that exist at a time, 128 MiB in f32: a GPU reads the head's weight once for each chunk, which
/// takes it longer than to compute with few rows.
pub(super) const CHUNK_ELEMENTS: usize = 32 << 20;

/// Rows of a chunk: as many as memory allows, all chunks of nearly one size.
pub(super) fn chunk_rows(n: usize, vocab: usize, elements: usize) -> usize {
    let most = (elements / vocab.max(1)).max(16);
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

/// With `elements` entries of the logits at a time.
pub(super) fn cross_entropy<B: CrossEntropyOps>(
    hidden: FloatTensor<B>,
    weight: BaseWeight<B>,
    targets: IntTensor<B>,
    scale: f64,
    rule: LogitRule,
    [want_hidden, want_weight]: [bool; 2],
    elements: usize,
) -> (FloatTensor<B>, Option<FloatTensor<B>>, Option<FloatTensor<B>>) {
    let (device, dtype) = (hidden.device(), weight.dtype());
    let (shape, [vocab, _]) = (hidden.shape(), weight.dims());
    let (n, width) = (shape[0], shape[1]);
    let precise = precise(dtype);
    let mut total = B::float_zeros(Shape::from([1]), &device, precise.into());
    let mut hidden_grads = Vec::new();
    let mut weight_grad: Option<FloatTensor<B>> = None;
    let rows = chunk_rows(n, vocab, elements);
    for start in (0..n).step_by(rows) {
        let end = (start + rows).min(n);
        let h = B::float_slice(hidden.clone(), &[start..end, 0..width].map(Slice::from));
        let target = B::int_slice(targets.clone(), &[Slice::from(start..end)]);
        let target = B::int_reshape(target, Shape::from([end - start, 1]));
        let product = B::base_project(h.clone(), weight.clone());
        let (p, losses) = B::logit_gradients(product, target, scale, rule, dtype);
        total = B::float_add(total, B::float_reshape(B::float_sum(losses), Shape::from([1])));
        if want_hidden || want_weight {
            if want_weight {
                let grad = B::float_matmul(B::float_transpose(p.clone()), h);
                weight_grad = Some(match weight_grad {
                    Some(sum) => B::float_add(sum, grad),
                    None => grad,
                });
            }
            if want_hidden {
                hidden_grads.push(B::base_project_backward(p, weight.clone()));
            }
        }
    }
    let hidden_grad = (want_hidden && n > 0).then(|| B::float_cat(hidden_grads, 0));
    (B::float_mul_scalar(total, scale.into()), hidden_grad, weight_grad)
}

/// The gradients of a head's product, and the losses of its rows.
pub(super) fn logit_gradients<B: Backend>(
    product: FloatTensor<B>,
    targets: IntTensor<B>,
    scale: f64,
    rule: LogitRule,
    dtype: DType,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (device, precise, rows) = (product.device(), precise(product.dtype()), product.shape()[0]);
    let (logits, slope) = rule.with_slope::<B>(cast::<B>(product, precise));
    let largest = B::float_max_dim(logits.clone(), 1);
    let shifted = B::float_sub(logits, largest);
    let picked = B::float_gather(1, shifted.clone(), targets.clone());
    let exp = B::float_exp(shifted);
    let sums = B::float_sum_dim(exp.clone(), 1);
    let losses = B::float_sub(B::float_log(sums.clone()), picked);
    let minus = B::float_full(Shape::from([rows, 1]), (-1.0).into(), &device, precise.into());
    let p = B::float_scatter(1, B::float_div(exp, sums), targets, minus, IndexingUpdateOp::Add);
    let p = match slope {
        Some(slope) => B::float_mul(p, slope),
        None => p,
    };
    (cast::<B>(B::float_mul_scalar(p, scale.into()), dtype), losses)
}
