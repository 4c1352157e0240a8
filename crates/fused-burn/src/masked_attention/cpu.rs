//! On the CPU.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::tensor::{BoolTensor, FloatTensor};
use rayon::prelude::*;

use super::sizes::Sizes;
use super::{MaskedAttentionOps, composed};
use crate::flex::{self, all_bf16, all_f32, contiguous, in_blocks, narrowed, values, widened};
use crate::matrix::{Mat, MatMut, Product, compute};
use crate::scores::{Scores, cap_all, softmax};
use crate::simd::vectorized;

/// Multiply-adds of all scores below which they stay on one thread.
const PARALLEL_WORK: usize = 1 << 18;

impl MaskedAttentionOps for Flex {
    fn masked_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
        rule: Scores,
    ) -> FloatTensor<Self> {
        let half = all_bf16(&[&q, &k, &v]);
        if !half && !all_f32(&[&q, &k, &v]) {
            return composed::forward::<Self>(q, k, v, hidden, rule);
        }
        let (s, size) = (Sizes::new(&q.shape(), &k.shape()), q.shape());
        let mask = hidden.shape();
        let fits = |i: usize, size: usize| mask[i] == 1 || mask[i] == size;
        assert!(
            mask[1] == 1 && fits(0, s.batch) && fits(2, s.queries) && fits(3, s.keys) && v.shape() == k.shape(),
            "a mask of {mask:?} for {} rows, {} queries and {} keys",
            s.batch,
            s.queries,
            s.keys
        );
        let hidden: Vec<bool> = hidden.into_data().iter::<bool>().collect();
        let hides_any = hidden.contains(&true);
        let hides = |row: usize, query: usize, key: usize| {
            let at = [(mask[0], row), (mask[2], query), (mask[3], key)];
            hidden[at.into_iter().fold(0, |sum, (size, i)| sum * size + i % size)]
        };
        let (q, k, v) = (contiguous(widened(q)), in_blocks(k), in_blocks(v));
        let (group, rows) = (s.group(), s.group() * s.queries);
        let head = |row: usize, kv: usize| {
            // The queries of the heads that share this key head, head by head.
            let places = (kv * group..(kv + 1) * group)
                .flat_map(|h| (0..s.queries).map(move |t| ((row * s.queries + t) * s.heads + h) * s.d));
            let mut queries = Vec::with_capacity(rows * s.d);
            places.clone().for_each(|at| queries.extend_from_slice(&values(&q)[at..][..s.d]));
            let [keys, vals] = [&k, &v].map(|t| flex::block(t, [row, kv]));
            let mut scores = flex::buffer(rows * s.keys);
            let product = Product::of(Mat::new(&queries, rows, s.d), keys.t()).times(rule.scale_of(s.d));
            compute(MatMut::new(&mut scores, rows, s.keys), &[product]);
            for (i, scores) in scores.chunks_exact_mut(s.keys.max(1)).enumerate() {
                if let Some(cap) = rule.softcap {
                    vectorized(
                        #[inline(always)]
                        || cap_all(scores, cap),
                    );
                }
                if hides_any {
                    let hidden = scores.iter_mut().enumerate().filter(|(key, _)| hides(row, i % s.queries, *key));
                    hidden.for_each(|(_, score)| *score = f32::NEG_INFINITY);
                }
                vectorized(
                    #[inline(always)]
                    || softmax(scores),
                );
            }
            let mut mixed = flex::buffer(rows * s.d);
            let product = Product::of(Mat::new(&scores, rows, s.keys), vals);
            compute(MatMut::new(&mut mixed, rows, s.d), &[product]);
            (places.collect::<Vec<_>>(), mixed)
        };
        let all = s.batch * s.kv_heads;
        let parts: Vec<_> = if all * rows * s.keys * s.d < PARALLEL_WORK {
            (0..all).map(|i| head(i / s.kv_heads, i % s.kv_heads)).collect()
        } else {
            (0..all).into_par_iter().with_max_len(1).map(|i| head(i / s.kv_heads, i % s.kv_heads)).collect()
        };
        let mut out = flex::buffer(size.num_elements());
        for (places, mixed) in parts {
            let rows = places.into_iter().zip(mixed.chunks_exact(s.d.max(1)));
            rows.for_each(|(at, mixed)| out[at..][..s.d].copy_from_slice(mixed));
        }
        let out = flex::tensor(out, size);
        if half { narrowed(out) } else { out }
    }
}
