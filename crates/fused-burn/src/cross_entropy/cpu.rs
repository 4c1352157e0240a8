//! On the CPU.

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};
use rayon::prelude::*;

use super::composed::{self, chunk_rows};
use super::{CrossEntropyOps, LogitRule};
use crate::base_linear::{BaseWeight, FlexWeight};
use crate::flex::{self, all_bf16, contiguous, dims2, mat, narrowed};
use crate::matrix::{Mat, MatMut, Product, compute_parallel};
use crate::simd::{exp, max, sum, vectorized};

/// Entries of the logits that exist at a time: 32 MiB in f32.
const CHUNK_ELEMENTS: usize = 8 << 20;

/// The values of a tensor of integers.
fn ints(tensor: IntTensor<Flex>) -> Vec<usize> {
    tensor.into_data().iter::<i64>().map(|i| i as usize).collect()
}

/// The loss of one row; its logits become `scale·(softmax − one at target)`.
#[inline(always)]
fn row_loss(logits: &mut [f32], target: usize, scale: f32) -> f32 {
    let largest = max(logits);
    let picked = logits[target] - largest;
    for l in logits.iter_mut() {
        *l = exp(*l - largest);
    }
    let total = sum(
        logits.len(),
        #[inline(always)]
        |i| logits[i],
    );
    let factor = scale / total;
    for l in logits.iter_mut() {
        *l *= factor;
    }
    logits[target] -= scale;
    total.ln() - picked
}

/// As [`row_loss`], for a row of the head's product that `rule` makes logits of.
#[inline(always)]
fn ruled_loss(product: &mut [f32], target: usize, scale: f32, rule: &LogitRule) -> f32 {
    rule.apply_row(product);
    let logits = if rule.softcap.is_some() { product.to_vec() } else { Vec::new() };
    let loss = row_loss(product, target, scale);
    rule.back_row(product, &logits);
    loss
}

impl CrossEntropyOps for Flex {
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        targets: IntTensor<Self>,
        scale: f64,
        rule: LogitRule,
        wanted: [bool; 2],
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        let half = all_bf16(&[&hidden]);
        let Some(head) = FlexWeight::new(&weight, hidden.dtype()) else {
            return composed::cross_entropy::<Self>(
                hidden,
                weight,
                targets,
                scale,
                rule,
                wanted,
                composed::CHUNK_ELEMENTS,
            );
        };
        let ([n, width], [vocab, _]) = (dims2(&hidden), weight.dims());
        let (hidden, targets) = (contiguous(hidden), ints(targets));
        let (hidden, weight) = (mat(&hidden), head.mat());
        let rows = chunk_rows(n, vocab, CHUNK_ELEMENTS);
        let mut logits = flex::buffer(rows.min(n) * vocab);
        let mut hidden_grad = wanted[0].then(|| flex::buffer(n * width));
        let mut weight_grad = wanted[1].then(|| flex::buffer(vocab * width));
        let mut total = 0.0;
        for start in (0..n).step_by(rows) {
            let end = (start + rows).min(n);
            let count = end - start;
            let logits = &mut logits[..count * vocab];
            let h = hidden.rows(start, end);
            compute_parallel(MatMut::new(logits, count, vocab), &[Product::of(h, weight.t())]);
            let losses: Vec<f32> = logits
                .par_chunks_mut(vocab)
                .zip(&targets[start..end])
                .map(|(logits, &target)| {
                    vectorized(
                        #[inline(always)]
                        || {
                            if rule.is_plain() {
                                row_loss(logits, target, scale as f32)
                            } else {
                                ruled_loss(logits, target, scale as f32, &rule)
                            }
                        },
                    )
                })
                .collect();
            total += losses.into_iter().map(f64::from).sum::<f64>();
            let grads = Mat::new(logits, count, vocab);
            if let Some(grad) = &mut hidden_grad {
                let out = MatMut::new(&mut grad[start * width..end * width], count, width);
                compute_parallel(out, &[Product::of(grads, weight)]);
            }
            if let Some(grad) = &mut weight_grad {
                compute_parallel(MatMut::new(grad, vocab, width), &[Product::of(grads.t(), h).added()]);
            }
        }
        let loss = flex::tensor(vec![(total * scale) as f32], [1]);
        let grad = |g: Option<Vec<f32>>, rows| {
            let g = flex::tensor(g?, [rows, width]);
            Some(if half { narrowed(g) } else { g })
        };
        (loss, grad(hidden_grad, n), grad(weight_grad, vocab))
    }
}
