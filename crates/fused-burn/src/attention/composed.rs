//! In terms of ordinary tensor operations, for every backend: a block of queries at a time.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::{Shape, Slice, TensorData};

use super::shape::AttentionShape;
use crate::precision::{cast, precise};

/// Queries of a block: enough to fill a GPU, few enough that a block's scores are small.
const BLOCK: usize = 512;

/// A block of queries, `first..end` of every row; they see columns `0..end` at most.
#[derive(Clone, Copy)]
struct Block<'a> {
    shape: &'a AttentionShape,
    first: usize,
    end: usize,
}

fn blocks(shape: &AttentionShape) -> impl Iterator<Item = Block<'_>> {
    (0..shape.seq).step_by(BLOCK).map(move |first| Block { shape, first, end: (first + BLOCK).min(shape.seq) })
}

/// `[batch·seq, heads·d]` as `[batch, heads, seq, d]`.
fn split<B: Backend>(x: FloatTensor<B>, shape: &AttentionShape, heads: usize) -> FloatTensor<B> {
    let x = B::float_reshape(x, Shape::from([shape.batch, shape.seq, heads, shape.head_dim]));
    B::float_swap_dims(x, 1, 2)
}

/// `[batch, heads, seq, d]` as `[batch·seq, heads·d]`.
fn join<B: Backend>(x: FloatTensor<B>, shape: &AttentionShape, heads: usize) -> FloatTensor<B> {
    let width = x.shape()[3];
    B::float_reshape(B::float_swap_dims(x, 1, 2), Shape::from([shape.batch * shape.seq, heads * width]))
}

/// Positions `start..end` of `[batch, heads, seq, d]`.
fn part<B: Backend>(x: &FloatTensor<B>, start: usize, end: usize) -> FloatTensor<B> {
    let shape = x.shape();
    B::float_slice(x.clone(), &[0..shape[0], 0..shape[1], start..end, 0..shape[3]].map(Slice::from))
}

impl Block<'_> {
    /// The heads of a group folded into the queries: `[batch, kv_heads, group·queries, d or 1]`.
    fn fold<B: Backend>(&self, x: &FloatTensor<B>) -> FloatTensor<B> {
        let s = self.shape;
        let rows = s.group() * (self.end - self.first);
        let width = x.shape()[3];
        B::float_reshape(part::<B>(x, self.first, self.end), Shape::from([s.batch, s.kv_heads, rows, width]))
    }

    /// Undoes the folding: `[batch, heads, queries, d or 1]`.
    fn unfold<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let (s, width) = (self.shape, x.shape()[3]);
        B::float_reshape(x, Shape::from([s.batch, s.heads, self.end - self.first, width]))
    }

    /// Which scores are hidden, `[1 or batch, 1, queries, keys]`: worked out on the device, since a mask of this size would
    /// take longer to send than the scores to compute.
    fn hidden<B: Backend>(&self, device: &B::Device) -> BoolTensor<B> {
        let settings = get_device_settings::<B>(device);
        let (ints, bools) = (settings.int_dtype, settings.bool_dtype);
        let (first, end) = (self.first as i64, self.end as i64);
        let queries = B::int_arange(first..end, device, ints);
        let queries = B::int_reshape(queries, Shape::from([1, 1, self.end - self.first, 1]));
        let keys = B::int_reshape(B::int_arange(0..end, device, ints), Shape::from([1, 1, 1, self.end]));
        let after = B::int_lower(queries, keys.clone(), bools);
        let Some(starts) = &self.shape.starts else { return after };
        let starts: Vec<i64> = (starts.chunks(self.shape.seq))
            .flat_map(|row| row[self.first..self.end].iter().map(|&start| start as i64))
            .collect();
        let starts = TensorData::new(starts, [self.shape.batch, 1, self.end - self.first, 1]);
        let starts = B::int_from_data(starts.convert_dtype(ints.into()), device);
        let before = B::int_lower(keys, starts, bools);
        let after = B::bool_expand(after, before.shape());
        B::bool_or(after, before)
    }

    /// The scores, `[batch, kv_heads, group·queries, keys]`, in f32 or f64; −∞ where nothing is seen.
    fn scores<B: Backend>(&self, queries: FloatTensor<B>, keys: FloatTensor<B>) -> FloatTensor<B> {
        let s = self.shape;
        let dtype = queries.dtype();
        let device = queries.device();
        let scores = B::float_matmul(queries, B::float_swap_dims(keys, 2, 3));
        let scores = B::float_mul_scalar(cast::<B>(scores, precise(dtype)), s.scale().into());
        let full = Shape::from([s.batch, s.heads, self.end - self.first, self.end]);
        let folded = scores.shape();
        let hidden = B::bool_expand(self.hidden::<B>(&device), full.clone());
        let scores = B::float_mask_fill(B::float_reshape(scores, full), hidden, f32::NEG_INFINITY.into());
        B::float_reshape(scores, folded)
    }
}

pub(super) fn forward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    shape: &AttentionShape,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = q.dtype();
    let (q, k, v) =
        (split::<B>(q, shape, shape.heads), split::<B>(k, shape, shape.kv_heads), split::<B>(v, shape, shape.kv_heads));
    let (mut outs, mut logs) = (Vec::new(), Vec::new());
    for block in blocks(shape) {
        let scores = block.scores::<B>(block.fold::<B>(&q), part::<B>(&k, 0, block.end));
        let largest = B::float_max_dim(scores.clone(), 3);
        let weights = B::float_exp(B::float_sub(scores, largest.clone()));
        let totals = B::float_sum_dim(weights.clone(), 3);
        let mixed =
            B::float_matmul(cast::<B>(B::float_div(weights, totals.clone()), dtype), part::<B>(&v, 0, block.end));
        outs.push(block.unfold::<B>(mixed));
        logs.push(block.unfold::<B>(B::float_add(largest, B::float_log(totals))));
    }
    let [out, logs] = [outs, logs].map(|parts| join::<B>(B::float_cat(parts, 2), shape, shape.heads));
    (out, logs)
}

pub(super) fn backward<B: Backend>(
    grad: FloatTensor<B>,
    [q, k, v, out, logs]: [FloatTensor<B>; 5],
    shape: &AttentionShape,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dtype = q.dtype();
    // Σ weights·(their gradients), which is Σ out·grad.
    let dots = B::float_mul(cast::<B>(grad.clone(), precise(dtype)), cast::<B>(out, precise(dtype)));
    let dots = B::float_sum_dim(split::<B>(dots, shape, shape.heads), 3);
    let logs = B::float_reshape(logs, Shape::from([shape.batch, shape.seq, shape.heads, 1]));
    let logs = B::float_swap_dims(logs, 1, 2);
    let (q, grad) = (split::<B>(q, shape, shape.heads), split::<B>(grad, shape, shape.heads));
    let (k, v) = (split::<B>(k, shape, shape.kv_heads), split::<B>(v, shape, shape.kv_heads));
    let mut query_grads = Vec::new();
    let mut sums: Option<[FloatTensor<B>; 2]> = None;
    // From the last block, which sees all columns, so that the earlier ones' gradients are added to a part of its own.
    for block in blocks(shape).collect::<Vec<_>>().into_iter().rev() {
        let (queries, grads) = (block.fold::<B>(&q), block.fold::<B>(&grad));
        let (logs, dots) = (block.fold::<B>(&logs), block.fold::<B>(&dots));
        let (keys, vals) = (part::<B>(&k, 0, block.end), part::<B>(&v, 0, block.end));
        let weights = B::float_exp(B::float_sub(block.scores::<B>(queries.clone(), keys.clone()), logs));
        let low = cast::<B>(weights.clone(), dtype);
        let dv = B::float_matmul(B::float_swap_dims(low, 2, 3), grads.clone());
        let dw = cast::<B>(B::float_matmul(grads, B::float_swap_dims(vals, 2, 3)), precise(dtype));
        let ds = B::float_mul(weights, B::float_sub(dw, dots));
        let ds = cast::<B>(B::float_mul_scalar(ds, shape.scale().into()), dtype);
        query_grads.push(block.unfold::<B>(B::float_matmul(ds.clone(), keys)));
        let dk = B::float_matmul(B::float_swap_dims(ds, 2, 3), queries);
        sums = Some(match sums {
            None => [dk, dv],
            Some([k_sum, v_sum]) => [add_to_first::<B>(k_sum, dk), add_to_first::<B>(v_sum, dv)],
        });
    }
    query_grads.reverse();
    let dq = join::<B>(B::float_cat(query_grads, 2), shape, shape.heads);
    let [dk, dv] = sums.unwrap_or([k, v]).map(|x| join::<B>(x, shape, shape.kv_heads));
    (dq, dk, dv)
}

/// Adds `x` to the first positions of `sum`.
fn add_to_first<B: Backend>(sum: FloatTensor<B>, x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let slices = [0..shape[0], 0..shape[1], 0..shape[2], 0..shape[3]].map(Slice::from);
    let first = B::float_slice(sum.clone(), &slices);
    B::float_slice_assign(sum, &slices, B::float_add(first, x))
}
