//! On the CPU.

use rayon::prelude::*;

use super::{Block, BlockLayer, BlockRows, BlockShape};
use crate::flex::{self, FlexTensor, dims2, values};
use crate::matrix::{Mat, MatMut, Product, compute};
use crate::scores::{cap_all, softmax};
use crate::simd::{sum, vectorized};

/// Queries of a sequence that are worked on together.
const TILE: usize = 32;

/// Consecutive queries of one sequence, and where their result goes.
struct Task<'a> {
    q: &'a [f32],
    out: &'a mut [f32],
    /// Tokens before the first query.
    past: usize,
    blocks: &'a [Block],
}

pub(super) fn block_attention(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    layer: BlockLayer,
    shape: &BlockShape,
    sequences: &mut [BlockRows],
) -> FlexTensor {
    let [n, width] = dims2(&q);
    let BlockShape { heads, kv_heads, head_dim, .. } = *shape;
    assert!(
        width == heads * head_dim && dims2(&k) == [n, kv_heads * head_dim] && dims2(&v) == dims2(&k),
        "queries of {width}, keys and values of {:?} for {shape:?}",
        dims2(&k)
    );
    assert!(layer.number < shape.layers, "layer {} of {}", layer.number, shape.layers);
    let mut out = flex::buffer(n * width);
    let (mut left, mut tasks, mut at) = (out.as_mut_slice(), Vec::new(), 0);
    for sequence in sequences.iter_mut() {
        assert_eq!(sequence.rows.start, at, "sequences that do not follow each other");
        at = sequence.rows.end;
        keep(&k, &v, layer.number, shape, sequence);
        let blocks = sequence.blocks.as_slice();
        for first in sequence.rows.clone().step_by(TILE) {
            let end = (first + TILE).min(sequence.rows.end);
            let (out, rest) = left.split_at_mut((end - first) * width);
            left = rest;
            let q = &values(&q)[first * width..end * width];
            tasks.push(Task { q, out, past: sequence.past + first - sequence.rows.start, blocks });
        }
    }
    assert_eq!(at, n, "rows that belong to no sequence");
    tasks.into_par_iter().with_max_len(2).for_each(|task| task.run(layer, shape));
    flex::tensor(out, [n, width])
}

/// Copies the rows' keys and values into their places.
fn keep(k: &FlexTensor, v: &FlexTensor, layer: usize, shape: &BlockShape, sequence: &mut BlockRows) {
    let d = shape.head_dim;
    for (which, values) in [values(k), values(v)].into_iter().enumerate() {
        for (i, row) in sequence.rows.clone().enumerate() {
            let token = sequence.past + i;
            let block = &mut sequence.blocks[token / shape.tokens];
            for kv_head in 0..shape.kv_heads {
                let to = shape.place(layer, which, kv_head) + token % shape.tokens * d;
                let from = (row * shape.kv_heads + kv_head) * d;
                block[to..to + d].copy_from_slice(&values[from..from + d]);
            }
        }
    }
}

impl Task<'_> {
    fn run(self, layer: BlockLayer, shape: &BlockShape) {
        let width = shape.heads * shape.head_dim;
        if self.q.len() == width {
            vectorized(
                #[inline(always)]
                || one(self.q, self.out, self.past + 1, self.blocks, layer, shape),
            );
        } else {
            self.many(layer, shape);
        }
    }

    /// By matrix products, head by head.
    fn many(self, layer: BlockLayer, shape: &BlockShape) {
        let BlockShape { heads, kv_heads, head_dim: d, tokens, .. } = *shape;
        let (group, width) = (heads / kv_heads, heads * d);
        let queries = self.q.len() / width;
        let keys = self.past + queries;
        let rows = group * queries;
        // Blocks that no query of this task sees are not read.
        let blocks = layer.first(self.past + 1) / tokens..keys.div_ceil(tokens);
        let (mut packed, mut scores, mut mixed) = (vec![0.0; rows * d], vec![0.0; rows * keys], vec![0.0; rows * d]);
        for kv_head in 0..kv_heads {
            // The queries of the heads that share this key head, query by query.
            for (row, q) in packed.chunks_exact_mut(d).enumerate() {
                q.copy_from_slice(&self.q[row / group * width + (kv_head * group + row % group) * d..][..d]);
            }
            let part = |which: usize, block: usize| {
                let count = tokens.min(keys - block * tokens);
                let start = shape.place(layer.number, which, kv_head);
                (Mat::new(&self.blocks[block][start..start + count * d], count, d), count)
            };
            for block in blocks.clone() {
                let (k, count) = part(0, block);
                let product = Product::of(Mat::new(&packed, rows, d), k.t()).times(layer.scores.scale_of(d));
                compute(MatMut::strided(&mut scores[block * tokens..], rows, count, keys), &[product]);
            }
            for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let end = self.past + row / group + 1;
                let (seen, hidden) = scores.split_at_mut(end);
                let (before, seen) = seen.split_at_mut(layer.first(end));
                vectorized(
                    #[inline(always)]
                    || weights(seen, &layer),
                );
                before.fill(0.0);
                hidden.fill(0.0);
            }
            for block in blocks.clone() {
                let (v, count) = part(1, block);
                let product = Product::of(Mat::strided(&scores[block * tokens..], rows, count, keys), v);
                let product = if block == blocks.start { product } else { product.added() };
                compute(MatMut::new(&mut mixed, rows, d), &[product]);
            }
            for (row, mixed) in mixed.chunks_exact(d).enumerate() {
                let at = row / group * width + (kv_head * group + row % group) * d;
                self.out[at..at + d].copy_from_slice(mixed);
            }
        }
    }
}

/// One query to `keys` keys.
#[inline(always)]
fn one(q: &[f32], out: &mut [f32], keys: usize, blocks: &[Block], layer: BlockLayer, shape: &BlockShape) {
    let BlockShape { heads, kv_heads, head_dim: d, tokens, .. } = *shape;
    let group = heads / kv_heads;
    let scale = layer.scores.scale_of(d);
    let first = layer.first(keys);
    let mut scores = vec![0.0; group * keys];
    for kv_head in 0..kv_heads {
        let heads = kv_head * group * d..(kv_head + 1) * group * d;
        let (q, out) = (&q[heads.clone()], &mut out[heads]);
        for (number, block) in blocks.iter().enumerate().take(keys.div_ceil(tokens)).skip(first / tokens) {
            let count = tokens.min(keys - number * tokens);
            let k = &block[shape.place(layer.number, 0, kv_head)..][..count * d];
            for (i, k) in k.chunks_exact(d).enumerate() {
                for (g, q) in q.chunks_exact(d).enumerate() {
                    let dot = sum(
                        d,
                        #[inline(always)]
                        |i| q[i] * k[i],
                    );
                    scores[g * keys + number * tokens + i] = dot * scale;
                }
            }
        }
        for scores in scores.chunks_exact_mut(keys) {
            let (before, seen) = scores.split_at_mut(first);
            before.fill(0.0);
            weights(seen, &layer);
        }
        out.fill(0.0);
        for (number, block) in blocks.iter().enumerate().take(keys.div_ceil(tokens)).skip(first / tokens) {
            let count = tokens.min(keys - number * tokens);
            let v = &block[shape.place(layer.number, 1, kv_head)..][..count * d];
            for (g, out) in out.chunks_exact_mut(d).enumerate() {
                let weights = &scores[g * keys + number * tokens..][..count];
                for (v, weight) in v.chunks_exact(d).zip(weights) {
                    for (o, v) in out.iter_mut().zip(v) {
                        *o += weight * v;
                    }
                }
            }
        }
    }
}

/// Scores become weights, by the layer's rule.
#[inline(always)]
fn weights(scores: &mut [f32], layer: &BlockLayer) {
    if let Some(cap) = layer.scores.softcap {
        cap_all(scores, cap);
    }
    softmax(scores);
}
