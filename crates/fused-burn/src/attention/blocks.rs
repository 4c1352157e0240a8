//! On slices: a block of queries of one row against a tile of keys at a time, as FlashAttention does (Dao 2023,
//! arXiv:2307.08691), so that scores never leave the processor's caches. Forward keeps the logarithm of each query's sum of
//! exponentials, from which backward works out the weights of any tile alone.

use std::ops::Range;

use rayon::prelude::*;

use super::shape::AttentionShape;
use crate::flex::buffer;
use crate::matrix::{Mat, MatMut, Product, compute};
use crate::scores::{cap_all, cap_slope};
use crate::simd::{exp, max, sum, vectorized};

/// Queries of a block.
const BLOCK: usize = 64;
/// Scores of a tile: two of such size lie in a second-level cache.
const TILE_SCORES: usize = 24 << 10;

/// One block: queries `first..end` of row `row`, and the columns `keys..end` that they see.
#[derive(Clone, Copy)]
struct Block<'a> {
    shape: &'a AttentionShape,
    row: usize,
    first: usize,
    end: usize,
    keys: usize,
}

/// Columns of a row of tokens.
#[derive(Clone, Copy)]
struct Tile {
    start: usize,
    end: usize,
}

impl Tile {
    fn width(self) -> usize {
        self.end - self.start
    }
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

    fn tiles(&self) -> impl Iterator<Item = Tile> + use<> {
        let (end, width) = (self.end, (TILE_SCORES / self.rows()).next_multiple_of(16).max(BLOCK));
        (self.keys..end).step_by(width).map(move |start| Tile { start, end: (start + width).min(end) })
    }

    /// The columns of `tile` that the query of the block's row `row` sees, counted from the tile's first.
    fn visible(&self, row: usize, tile: Tile) -> Range<usize> {
        let sees = self.shape.sees(self.row, self.first + row % self.queries());
        let start = sees.start.clamp(tile.start, tile.end);
        start - tile.start..sees.end.clamp(start, tile.end) - tile.start
    }

    /// Keys or values of one head, `[width, d]`.
    fn seen<'m>(&self, values: &'m [f32], head: usize, tile: Tile) -> Mat<'m> {
        let s = self.shape;
        let stride = s.kv_heads * s.head_dim;
        let at = (self.row * s.seq + tile.start) * stride + head * s.head_dim;
        Mat::strided(&values[at..], tile.width(), s.head_dim, stride)
    }

    /// Where the block's rows for key head `head` lie in `[batch·seq, heads]`.
    fn places(&self, head: usize) -> impl Iterator<Item = usize> + use<'a> {
        let (s, first, end, row) = (self.shape, self.first, self.end, self.row);
        let heads = head * s.group()..(head + 1) * s.group();
        heads.flat_map(move |h| (first..end).map(move |t| (row * s.seq + t) * s.heads + h))
    }

    /// Copies the block's queries (or what has their shape) for one key head, times `scale`: `[rows, d]`, head by head.
    fn gather(&self, values: &[f32], head: usize, scale: f32) -> Vec<f32> {
        let d = self.shape.head_dim;
        let mut out = Vec::with_capacity(self.rows() * d);
        for place in self.places(head) {
            out.extend(values[place * d..][..d].iter().map(|x| x * scale));
        }
        out
    }

    /// Undoes [`Self::gather`] into the block's own part of a buffer, each row times its factor.
    fn scatter(&self, values: &[f32], out: &mut [f32], head: usize, factor: impl Fn(usize) -> f32) {
        let (d, before) = (self.shape.head_dim, self.before());
        for (row, (place, values)) in self.places(head).zip(values.chunks_exact(d)).enumerate() {
            let factor = factor(row);
            let out = &mut out[(place - before) * d..][..d];
            out.iter_mut().zip(values).for_each(|(o, v)| *o = v * factor);
        }
    }

    /// The rows of `[batch·seq, heads]` before the block's.
    fn before(&self) -> usize {
        (self.row * self.shape.seq + self.first) * self.shape.heads
    }

    /// `rows · seenᵀ` for rows `[rows, d]`: `[rows, width]`.
    fn against(&self, rows: &[f32], seen: Mat<'_>, tile: Tile, out: &mut [f32]) {
        let (n, width) = (self.rows(), tile.width());
        let product = Product::of(Mat::new(rows, n, self.shape.head_dim), seen.t());
        compute(MatMut::new(out, n, width), &[product]);
    }
}

/// Turns the visible scores of a row into exponentials over the largest that was seen so far, and the others into zeros.
/// Returns by what all that was added up before must be multiplied.
#[inline(always)]
fn exponentials(scores: &mut [f32], visible: Range<usize>, largest: &mut f32, total: &mut f32) -> f32 {
    let (before, rest) = scores.split_at_mut(visible.start);
    let (scores, after) = rest.split_at_mut(visible.len());
    before.fill(0.0);
    after.fill(0.0);
    if scores.is_empty() {
        return 1.0;
    }
    let highest = max(scores);
    let top = if highest > *largest { highest } else { *largest };
    for s in scores.iter_mut() {
        *s = exp(*s - top);
    }
    let own = sum(
        scores.len(),
        #[inline(always)]
        |i| scores[i],
    );
    let factor = exp(*largest - top);
    *largest = top;
    *total = *total * factor + own;
    factor
}

/// The heads' outputs, `[batch·seq, heads·d]`, and the logarithms of the sums of exponentials, `[batch·seq, heads]`.
pub(super) fn forward(q: &[f32], k: &[f32], v: &[f32], shape: &AttentionShape) -> [Vec<f32>; 2] {
    let (mut out, mut logs) = (buffer(q.len()), buffer(shape.batch * shape.seq * shape.heads));
    let width = shape.heads * shape.head_dim;
    let rows = out.chunks_mut((shape.seq * width).max(1)).zip(logs.chunks_mut((shape.seq * shape.heads).max(1)));
    let mut blocks: Vec<_> = rows
        .enumerate()
        .flat_map(|(row, (out, logs))| {
            let parts = out.chunks_mut(BLOCK * width).zip(logs.chunks_mut(BLOCK * shape.heads));
            parts.enumerate().map(move |(i, (out, logs))| (row, i, out, logs))
        })
        .collect();
    // Late blocks see most: with them at the end, a thread would wait for the other.
    blocks.reverse();
    blocks.into_par_iter().with_max_len(1).for_each(|(row, i, out, logs)| {
        let block = Block::new(shape, row, i * BLOCK);
        let mut scores = Vec::new();
        for head in 0..shape.kv_heads {
            let queries = block.gather(q, head, shape.scale());
            let (mut largest, mut totals) = (vec![f32::NEG_INFINITY; block.rows()], buffer(block.rows()));
            let mut mixed = buffer(block.rows() * shape.head_dim);
            for tile in block.tiles() {
                scores.resize(block.rows() * tile.width(), 0.0);
                block.against(&queries, block.seen(k, head, tile), tile, &mut scores);
                let rows = scores.chunks_exact_mut(tile.width()).zip(mixed.chunks_exact_mut(shape.head_dim));
                for (row, (scores, mixed)) in rows.enumerate() {
                    vectorized(
                        #[inline(always)]
                        || {
                            let visible = block.visible(row, tile);
                            if let Some(cap) = shape.scores.softcap {
                                cap_all(&mut scores[visible.clone()], cap);
                            }
                            let factor = exponentials(scores, visible, &mut largest[row], &mut totals[row]);
                            for x in mixed.iter_mut() {
                                *x *= factor;
                            }
                        },
                    );
                }
                let weights = Mat::new(&scores, block.rows(), tile.width());
                let product = Product::of(weights, block.seen(v, head, tile)).added();
                compute(MatMut::new(&mut mixed, block.rows(), shape.head_dim), &[product]);
            }
            block.scatter(&mixed, out, head, |row| 1.0 / totals[row]);
            for (row, place) in block.places(head).enumerate() {
                logs[place - block.before()] = largest[row] + totals[row].ln();
            }
        }
    });
    [out, logs]
}

/// What forward was given and made.
#[derive(Clone, Copy)]
pub(super) struct Forward<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) logs: &'a [f32],
}

/// The gradients with respect to q, k and v.
///
/// The blocks of a row add to the same keys. A thread takes a stripe of blocks (all of a row's, where there are rows
/// enough for all threads) and sums their keys' gradients by itself; the stripes' sums are added at the end.
pub(super) fn backward(grad: &[f32], forward: Forward<'_>, shape: &AttentionShape) -> [Vec<f32>; 3] {
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
