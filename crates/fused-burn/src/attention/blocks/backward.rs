//! Backward: each tile's weights once more, from the logarithms that forward kept.

use std::ops::Range;

use rayon::prelude::*;

use super::super::shape::AttentionShape;
use super::block::{BLOCK, Block};
use crate::flex::buffer;
use crate::matrix::{Mat, MatMut, Product, compute};
use crate::scores::{cap_all, cap_slope};
use crate::simd::{exp, sum, vectorized};

/// The inputs and results of forward.
#[derive(Clone, Copy)]
pub(in super::super) struct Forward<'a> {
    pub(in super::super) q: &'a [f32],
    pub(in super::super) k: &'a [f32],
    pub(in super::super) v: &'a [f32],
    pub(in super::super) out: &'a [f32],
    pub(in super::super) logs: &'a [f32],
}

/// The gradients with respect to q, k and v.
///
/// The blocks of a row add to the same keys. A thread takes a stripe of blocks (all of a row's, where there are rows
/// enough for all threads) and sums their keys' gradients by itself; the stripes' sums are added at the end.
pub(in super::super) fn backward(grad: &[f32], forward: Forward<'_>, shape: &AttentionShape) -> [Vec<f32>; 3] {
    let mut dq = buffer(forward.q.len());
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let blocks = shape.seq.div_ceil(BLOCK);
    let stripes = rayon::current_num_threads().div_ceil(shape.batch.max(1)).clamp(1, blocks.max(1));
    #[allow(clippy::type_complexity)] // (row of tokens, its blocks of output), used here alone
    let mut tasks: Vec<(usize, Vec<(usize, &mut [f32])>)> = Vec::new();
    for (row, dq) in dq.chunks_mut((shape.seq * width).max(1)).enumerate() {
        let at = tasks.len();
        tasks.extend((0..stripes).map(|_| (row, Vec::new())));
        for (i, dq) in dq.chunks_mut(BLOCK * width).enumerate() {
            // There and back, so that no stripe has the longer of each pair of blocks.
            let back = !(i / stripes).is_multiple_of(2);
            let stripe = if back { stripes - 1 - i % stripes } else { i % stripes };
            tasks[at + stripe].1.push((i, dq));
        }
    }
    let sums: Vec<[Vec<f32>; 2]> = tasks
        .into_par_iter()
        .with_max_len(1)
        .map(|(row, parts)| {
            // Transposed, `[kv_heads·d, seq]`: the weights are then read as they lie.
            let [mut dk, mut dv] = [(); 2].map(|()| buffer(kv_width * shape.seq));
            for (i, dq) in parts {
                block_backward(Block::new(shape, row, i * BLOCK), grad, forward, dq, &mut dk, &mut dv);
            }
            [dk, dv]
        })
        .collect();
    let [mut dk, mut dv] = [(); 2].map(|()| buffer(forward.k.len()));
    for (all, which) in [(&mut dk, 0), (&mut dv, 1)] {
        let rows = all.par_chunks_mut((shape.seq * kv_width).max(1)).zip(sums.par_chunks(stripes));
        rows.for_each(|(row, stripes)| stripes.iter().for_each(|sums| add_transposed(&sums[which], shape.seq, row)));
    }
    [dq, dk, dv]
}

/// Adds the transpose of `from`, whose rows have `width` values, to `to`.
fn add_transposed(from: &[f32], width: usize, to: &mut [f32]) {
    // Whole lines of the cache are written for as few rows as are read at once.
    const LINES: usize = 16;
    let height = from.len() / width.max(1);
    for first in (0..height).step_by(LINES) {
        let last = (first + LINES).min(height);
        for (column, to) in to.chunks_exact_mut(height.max(1)).enumerate() {
            let rows = from[first * width..].chunks(width).map(|row| row[column]);
            to[first..last].iter_mut().zip(rows).for_each(|(to, from)| *to += from);
        }
    }
}

/// The transpose of a matrix whose rows have `width` values.
fn transposed(from: &[f32], width: usize) -> Vec<f32> {
    let mut to = buffer(from.len());
    add_transposed(from, width, &mut to);
    to
}

/// The gradients that one block brings: `dq` is its own part, `dk` and `dv` are those of a whole row, transposed.
fn block_backward(
    block: Block<'_>,
    grad: &[f32],
    forward: Forward<'_>,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (s, rows, d) = (block.shape, block.rows(), block.shape.head_dim);
    let (mut weights, mut score_grads) = (Vec::new(), Vec::new());
    for head in 0..s.kv_heads {
        let queries = block.gather(forward.q, head, s.scale());
        let grads = block.gather(grad, head, 1.0);
        let outs = block.gather(forward.out, head, 1.0);
        // Σ weights·(their gradients), which is Σ out·grad.
        let dots: Vec<f32> = (grads.chunks_exact(d).zip(outs.chunks_exact(d)))
            .map(|(grad, out)| {
                vectorized(
                    #[inline(always)]
                    || {
                        sum(
                            d,
                            #[inline(always)]
                            |i| grad[i] * out[i],
                        )
                    },
                )
            })
            .collect();
        let logs: Vec<f32> = block.places(head).map(|place| forward.logs[place]).collect();
        let (queries_t, grads_t) = (transposed(&queries, d), transposed(&grads, d));
        let mut query_grads = buffer(rows * d);
        for tile in block.tiles() {
            let width = tile.width();
            weights.resize(rows * width, 0.0);
            score_grads.resize(rows * width, 0.0);
            block.against(&queries, block.seen(forward.k, head, tile), tile, &mut weights);
            block.against(&grads, block.seen(forward.v, head, tile), tile, &mut score_grads);
            let pairs = weights.chunks_exact_mut(width).zip(score_grads.chunks_exact_mut(width));
            for (row, (weights, grads)) in pairs.enumerate() {
                let visible = block.visible(row, tile);
                vectorized(
                    #[inline(always)]
                    || match s.scores.softcap {
                        None => softmax_backward(weights, grads, visible, logs[row], dots[row]),
                        Some(cap) => capped_backward(weights, grads, visible, logs[row], dots[row], cap),
                    },
                );
            }
            let at = head * d * s.seq + tile.start;
            let (weights, scores) = (Mat::new(&weights, rows, width), Mat::new(&score_grads, rows, width));
            let by_weights = Product::of(Mat::new(&grads_t, d, rows), weights).added();
            compute(MatMut::strided(&mut dv[at..], d, width, s.seq), &[by_weights]);
            let by_keys = Product::of(scores, block.seen(forward.k, head, tile)).added();
            compute(MatMut::new(&mut query_grads, rows, d), &[by_keys]);
            // The queries carry the scale.
            let by_scores = Product::of(Mat::new(&queries_t, d, rows), scores).added();
            compute(MatMut::strided(&mut dk[at..], d, width, s.seq), &[by_scores]);
        }
        block.scatter(&query_grads, dq, head, |_| s.scale());
    }
}

/// Scores become weights, and the weights' gradients become the scores': `weights · (grads − dot)`, zero where nothing is
/// seen.
#[inline(always)]
fn softmax_backward(weights: &mut [f32], grads: &mut [f32], visible: Range<usize>, log: f32, dot: f32) {
    let grads = &mut grads[..weights.len()];
    clear_hidden(weights, grads, &visible);
    for (w, g) in weights[visible.clone()].iter_mut().zip(&mut grads[visible]) {
        *w = exp(*w - log);
        *g = *w * (*g - dot);
    }
}

/// As [`softmax_backward`], for scores that a soft cap bends.
#[inline(always)]
fn capped_backward(weights: &mut [f32], grads: &mut [f32], visible: Range<usize>, log: f32, dot: f32, cap: f32) {
    let grads = &mut grads[..weights.len()];
    clear_hidden(weights, grads, &visible);
    cap_all(&mut weights[visible.clone()], cap);
    for (w, g) in weights[visible.clone()].iter_mut().zip(&mut grads[visible]) {
        let slope = cap_slope(*w, cap);
        *w = exp(*w - log);
        *g = *w * (*g - dot) * slope;
    }
}

#[inline(always)]
fn clear_hidden(weights: &mut [f32], grads: &mut [f32], visible: &Range<usize>) {
    for rest in [0..visible.start, visible.end..weights.len()] {
        weights[rest.clone()].fill(0.0);
        grads[rest].fill(0.0);
    }
}
