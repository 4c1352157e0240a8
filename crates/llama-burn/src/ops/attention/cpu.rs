//! On slices: a block of queries of one row, all heads, at a time.

use peft_burn::ops::flex::buffer;
use peft_burn::ops::matrix::{Mat, MatMut, Product, compute};
use peft_burn::ops::simd::{exp, max, sum, vectorized};
use rayon::prelude::*;

use super::AttentionShape;

/// Queries of a block.
const BLOCK: usize = 64;

/// One block: queries `first..end` of row `row`, and the columns `keys..end` that they see.
#[derive(Clone, Copy)]
struct Block<'a> {
    shape: &'a AttentionShape,
    row: usize,
    first: usize,
    end: usize,
    keys: usize,
}

impl<'a> Block<'a> {
    fn new(shape: &'a AttentionShape, row: usize, first: usize) -> Self {
        let end = (first + BLOCK).min(shape.seq);
        Self { shape, row, first, end, keys: shape.sees(row, first).start }
    }

    fn queries(&self) -> usize {
        self.end - self.first
    }

    /// Queries times the heads that share a key head.
    fn rows(&self) -> usize {
        self.queries() * self.shape.group()
    }

    fn width(&self) -> usize {
        self.end - self.keys
    }

    /// Keys or values of one head, `[width, d]`.
    fn seen<'m>(&self, values: &'m [f32], head: usize) -> Mat<'m> {
        let s = self.shape;
        let stride = s.kv_heads * s.head_dim;
        let at = (self.row * s.seq + self.keys) * stride + head * s.head_dim;
        Mat::strided(&values[at..], self.width(), s.head_dim, stride)
    }

    /// Copies the block's queries (or what has their shape) for one key head, times `scale`: `[rows, d]`, head by head.
    fn gather(&self, values: &[f32], head: usize, scale: f32) -> Vec<f32> {
        let s = self.shape;
        let mut out = Vec::with_capacity(self.rows() * s.head_dim);
        for h in head * s.group()..(head + 1) * s.group() {
            for t in self.first..self.end {
                let at = ((self.row * s.seq + t) * s.heads + h) * s.head_dim;
                out.extend(values[at..at + s.head_dim].iter().map(|x| x * scale));
            }
        }
        out
    }

    /// Undoes [`Self::gather`] into the block's own part of a buffer, times `scale`.
    fn scatter(&self, values: &[f32], out: &mut [f32], head: usize, scale: f32) {
        let s = self.shape;
        let places = (head * s.group()..(head + 1) * s.group()).flat_map(|h| (0..self.queries()).map(move |t| (h, t)));
        for ((h, t), values) in places.zip(values.chunks_exact(s.head_dim)) {
            let out = &mut out[(t * s.heads + h) * s.head_dim..][..s.head_dim];
            out.iter_mut().zip(values).for_each(|(o, v)| *o = v * scale);
        }
    }

    /// The attention weights `[rows, width]` of queries `[rows, d]` that are scaled already.
    fn weights(&self, queries: &[f32], k: &[f32], head: usize) -> Vec<f32> {
        let (rows, width) = (self.rows(), self.width());
        let mut scores = buffer(rows * width);
        let product = Product::of(Mat::new(queries, rows, self.shape.head_dim), self.seen(k, head).t());
        compute(MatMut::new(&mut scores, rows, width), &[product]);
        for (i, scores) in scores.chunks_exact_mut(width).enumerate() {
            let sees = self.shape.sees(self.row, self.first + i % self.queries());
            let (before, rest) = scores.split_at_mut(sees.start - self.keys);
            let (scores, after) = rest.split_at_mut(sees.len());
            vectorized(
                #[inline(always)]
                || softmax(scores),
            );
            before.fill(0.0);
            after.fill(0.0);
        }
        scores
    }
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let largest = max(scores);
    scores.iter_mut().for_each(|s| *s = exp(*s - largest));
    let inverse = 1.0
        / sum(
            scores.len(),
            #[inline(always)]
            |i| scores[i],
        );
    scores.iter_mut().for_each(|s| *s *= inverse);
}

/// `weights · (grads − Σ weights·grads)` in the place of `grads`: the gradient of the scores.
#[inline(always)]
fn softmax_backward(weights: &[f32], grads: &mut [f32]) {
    let grads = &mut grads[..weights.len()];
    let dot = sum(
        weights.len(),
        #[inline(always)]
        |i| weights[i] * grads[i],
    );
    grads.iter_mut().zip(weights).for_each(|(g, w)| *g = w * (*g - dot));
}

pub(super) fn forward(q: &[f32], k: &[f32], v: &[f32], shape: &AttentionShape) -> Vec<f32> {
    let mut out = buffer(q.len());
    let width = shape.heads * shape.head_dim;
    let blocks: Vec<_> = out
        .chunks_mut((shape.seq * width).max(1))
        .enumerate()
        .flat_map(|(row, out)| out.chunks_mut(BLOCK * width).enumerate().map(move |(i, out)| (row, i, out)))
        .collect();
    blocks.into_par_iter().for_each(|(row, i, out)| {
        let block = Block::new(shape, row, i * BLOCK);
        let mut mixed = buffer(block.rows() * shape.head_dim);
        for head in 0..shape.kv_heads {
            let weights = block.weights(&block.gather(q, head, shape.scale()), k, head);
            let product = Product::of(Mat::new(&weights, block.rows(), block.width()), block.seen(v, head));
            compute(MatMut::new(&mut mixed, block.rows(), shape.head_dim), &[product]);
            block.scatter(&mixed, out, head, 1.0);
        }
    });
    out
}

/// The gradients with respect to q, k and v.
///
/// The blocks of a row add to the same keys. A thread takes a stripe of blocks (all of a row's, where there are rows
/// enough for all threads) and sums their keys' gradients by itself; the stripes' sums are added at the end.
pub(super) fn backward(grad: &[f32], q: &[f32], k: &[f32], v: &[f32], shape: &AttentionShape) -> [Vec<f32>; 3] {
    let mut dq = buffer(q.len());
    let width = shape.heads * shape.head_dim;
    let blocks = shape.seq.div_ceil(BLOCK);
    let stripes = rayon::current_num_threads().div_ceil(shape.batch.max(1)).clamp(1, blocks.max(1));
    #[allow(clippy::type_complexity)] // (first row, its blocks of output), used here alone
    let mut tasks: Vec<(usize, Vec<(usize, &mut [f32])>)> = Vec::new();
    for (row, dq) in dq.chunks_mut((shape.seq * width).max(1)).enumerate() {
        let at = tasks.len();
        tasks.extend((0..stripes).map(|_| (row, Vec::new())));
        for (i, dq) in dq.chunks_mut(BLOCK * width).enumerate() {
            tasks[at + i % stripes].1.push((i, dq));
        }
    }
    let sums: Vec<[Vec<f32>; 2]> = tasks
        .into_par_iter()
        .map(|(row, parts)| {
            let kv_width = shape.kv_heads * shape.head_dim;
            let (mut dk, mut dv) = (buffer(shape.seq * kv_width), buffer(shape.seq * kv_width));
            for (i, dq) in parts {
                let block = Block::new(shape, row, i * BLOCK);
                block_backward(block, [grad, q, k, v], dq, &mut dk, &mut dv);
            }
            [dk, dv]
        })
        .collect();
    let [mut dk, mut dv] = [Vec::with_capacity(k.len()), Vec::with_capacity(v.len())];
    for row in sums.chunks(stripes) {
        for (all, which) in [(&mut dk, 0), (&mut dv, 1)] {
            let at = all.len();
            all.extend_from_slice(&row[0][which]);
            for stripe in &row[1..] {
                all[at..].iter_mut().zip(&stripe[which]).for_each(|(a, b)| *a += b);
            }
        }
    }
    [dq, dk, dv]
}

fn block_backward(block: Block<'_>, [grad, q, k, v]: [&[f32]; 4], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let (s, rows, width) = (block.shape, block.rows(), block.width());
    let (d, stride) = (s.head_dim, s.kv_heads * s.head_dim);
    let mut score_grads = buffer(rows * width);
    let mut query_grads = buffer(rows * d);
    for head in 0..s.kv_heads {
        let queries = block.gather(q, head, s.scale());
        let grads = block.gather(grad, head, 1.0);
        let weights = block.weights(&queries, k, head);
        let at = block.keys * stride + head * d;
        let (queries, grads) = (Mat::new(&queries, rows, d), Mat::new(&grads, rows, d));
        let by_weights = Product::of(Mat::new(&weights, rows, width).t(), grads).added();
        compute(MatMut::strided(&mut dv[at..], width, d, stride), &[by_weights]);
        let by_values = Product::of(grads, block.seen(v, head).t());
        compute(MatMut::new(&mut score_grads, rows, width), &[by_values]);
        for (weights, grads) in weights.chunks_exact(width).zip(score_grads.chunks_exact_mut(width)) {
            vectorized(
                #[inline(always)]
                || softmax_backward(weights, grads),
            );
        }
        let scores = Mat::new(&score_grads, rows, width);
        compute(MatMut::new(&mut query_grads, rows, d), &[Product::of(scores, block.seen(k, head))]);
        block.scatter(&query_grads, dq, head, s.scale());
        // The queries carry the scale.
        compute(MatMut::strided(&mut dk[at..], width, d, stride), &[Product::of(scores.t(), queries).added()]);
    }
}
