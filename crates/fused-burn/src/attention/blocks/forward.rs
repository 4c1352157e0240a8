//! Forward: a softmax that is corrected with each tile.

use std::ops::Range;

use rayon::prelude::*;

use super::super::shape::AttentionShape;
use super::block::{BLOCK, Block};
use crate::flex::buffer;
use crate::matrix::{Mat, MatMut, Product, compute};
use crate::scores::cap_all;
use crate::simd::{exp, max, sum, vectorized};

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
pub(in super::super) fn forward(q: &[f32], k: &[f32], v: &[f32], shape: &AttentionShape) -> [Vec<f32>; 2] {
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
