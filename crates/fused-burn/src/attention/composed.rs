//! In terms of ordinary tensor operations, for every backend: a block of queries at a time.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::{Shape, Slice, TensorData};

use super::shape::AttentionShape;
use crate::precision::{cast, precise};

/// Queries of a block: enough to fill a GPU, few enough that a block's scores are small.
const BLOCK: usize = 512;

/// A block of queries, `first..end` of every row; they see columns `keys..end` at most.
#[derive(Clone, Copy)]
struct Block<'a> {
    shape: &'a AttentionShape,
    first: usize,
    end: usize,
    keys: usize,
}

fn blocks(shape: &AttentionShape) -> impl Iterator<Item = Block<'_>> {
    (0..shape.seq).step_by(BLOCK).map(move |first| {
        let end = (first + BLOCK).min(shape.seq);
        Block { shape, first, end, keys: shape.first_in_window(first) }
    })
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
        let keys = B::int_arange(self.keys as i64..end, device, ints);
        let keys = B::int_reshape(keys, Shape::from([1, 1, 1, self.seen()]));
        let after = B::int_lower(queries.clone(), keys.clone(), bools);
        let after = match self.shape.window {
            None => after,
            Some(window) => {
                let before = B::int_sub_scalar(queries, (window as i64 - 1).into());
                B::bool_or(after, B::int_lower(keys.clone(), before, bools))
            }
        };
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

    /// How many columns the block sees.
    fn seen(&self) -> usize {
        self.end - self.keys
    }

    /// The scores, `[batch, kv_heads, group·queries, keys]`, in f32 or f64; −∞ where nothing is seen. With them the slope of
    /// their cap, where there is one and it is asked for.
    fn scores<B: Backend>(
        &self,
        queries: FloatTensor<B>,
        keys: FloatTensor<B>,
        with_slope: bool,
    ) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        let s = self.shape;
        let dtype = queries.dtype();
        let device = queries.device();
        // A score in bf16 would have lost more than its weight may be wrong by.
        let [queries, keys] = [queries, keys].map(|x| cast::<B>(x, precise(dtype)));
        let scores = B::float_matmul(queries, B::float_swap_dims(keys, 2, 3));
        let scores = B::float_mul_scalar(scores, s.scale().into());
        let (scores, slope) = s.scores.capped::<B>(scores, with_slope);
        let full = Shape::from([s.batch, s.heads, self.end - self.first, self.seen()]);
        let folded = scores.shape();
        let hidden = B::bool_expand(self.hidden::<B>(&device), full.clone());
        let scores = B::float_mask_fill(B::float_reshape(scores, full), hidden, f32::NEG_INFINITY.into());
        (B::float_reshape(scores, folded), slope)
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
        let (scores, _) = block.scores::<B>(block.fold::<B>(&q), part::<B>(&k, block.keys, block.end), false);
        let largest = B::float_max_dim(scores.clone(), 3);
        let weights = B::float_exp(B::float_sub(scores, largest.clone()));
        let totals = B::float_sum_dim(weights.clone(), 3);
        let values = part::<B>(&v, block.keys, block.end);
        let mixed = B::float_matmul(cast::<B>(B::float_div(weights, totals.clone()), dtype), values);
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
    // From the last block, which sees all columns where there is no window: the earlier ones' gradients are added to a part
    // of its own.
    for block in blocks(shape).collect::<Vec<_>>().into_iter().rev() {
        let (queries, grads) = (block.fold::<B>(&q), block.fold::<B>(&grad));
        let (logs, dots) = (block.fold::<B>(&logs), block.fold::<B>(&dots));
        let (keys, vals) = (part::<B>(&k, block.keys, block.end), part::<B>(&v, block.keys, block.end));
        let (scores, slope) = block.scores::<B>(queries.clone(), keys.clone(), true);
        let weights = B::float_exp(B::float_sub(scores, logs));
        let low = cast::<B>(weights.clone(), dtype);
        let dv = B::float_matmul(B::float_swap_dims(low, 2, 3), grads.clone());
        let [grads, vals] = [grads, vals].map(|x| cast::<B>(x, precise(dtype)));
        let dw = B::float_matmul(grads, B::float_swap_dims(vals, 2, 3));
        let ds = B::float_mul(weights, B::float_sub(dw, dots));
        let ds = match slope {
            Some(slope) => B::float_mul(ds, slope),
            None => ds,
        };
        let ds = cast::<B>(B::float_mul_scalar(ds, shape.scale().into()), dtype);
        query_grads.push(block.unfold::<B>(B::float_matmul(ds.clone(), keys)));
        let dk = B::float_matmul(B::float_swap_dims(ds, 2, 3), queries);
        sums = Some(match sums {
            None if block.keys == 0 => [dk, dv],
            None => [dk, dv].map(|x| {
                let zeros = B::float_zeros(k.shape(), &x.device(), x.dtype().into());
                add_at::<B>(zeros, block.keys, x)
            }),
            Some([k_sum, v_sum]) => [add_at::<B>(k_sum, block.keys, dk), add_at::<B>(v_sum, block.keys, dv)],
        });
    }
    query_grads.reverse();
    let dq = join::<B>(B::float_cat(query_grads, 2), shape, shape.heads);
    let [dk, dv] = sums.unwrap_or([k, v]).map(|x| join::<B>(x, shape, shape.kv_heads));
    (dq, dk, dv)
}

/// Adds `x` to the positions of `sum` from `start` on.
fn add_at<B: Backend>(sum: FloatTensor<B>, start: usize, x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let slices = [0..shape[0], 0..shape[1], start..start + shape[2], 0..shape[3]].map(Slice::from);
    let part = B::float_slice(sum.clone(), &slices);
    B::float_slice_assign(sum, &slices, B::float_add(part, x))
}
