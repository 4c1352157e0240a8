//! In terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Shape;

use super::sizes::Sizes;
use crate::precision::{cast, precise};
use crate::scores::Scores;

impl Sizes {
    /// The heads of a group read their key and value head where it lies: `[batch·queries, heads·d]` becomes
    /// `[batch, kv_heads, group·queries, d]`, so nothing is repeated.
    fn fold<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let x = B::float_reshape(x, Shape::from([self.batch, self.queries, self.heads, self.d]));
        B::float_reshape(B::float_swap_dims(x, 1, 2), self.folded(self.d))
    }

    fn unfold<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let x = B::float_swap_dims(B::float_reshape(x, self.unfolded(self.d)), 1, 2);
        B::float_reshape(x, Shape::from([self.batch * self.queries, self.heads * self.d]))
    }

    fn folded(&self, width: usize) -> Shape {
        Shape::from([self.batch, self.kv_heads, self.group() * self.queries, width])
    }

    fn unfolded(&self, width: usize) -> Shape {
        Shape::from([self.batch, self.heads, self.queries, width])
    }

    /// The weights for folded queries, `[batch, kv_heads, group·queries, keys]`, in f32 or f64, and the slope of the scores'
    /// cap.
    fn weights<B: Backend>(
        &self,
        q: FloatTensor<B>,
        k: FloatTensor<B>,
        hidden: BoolTensor<B>,
        rule: Scores,
    ) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        // Before the product: a score rounded to bf16 would be off by much more than a weight may be.
        let precise = precise(q.dtype());
        let scores = B::float_matmul(cast::<B>(q, precise), B::float_swap_dims(cast::<B>(k, precise), 2, 3));
        let scores = B::float_mul_scalar(scores, rule.scale_of(self.d).into());
        let (scores, slope) = rule.capped::<B>(scores, true);
        let scores = B::float_reshape(scores, self.unfolded(self.keys));
        let hidden = B::bool_expand(hidden, self.unfolded(self.keys));
        let scores = B::float_mask_fill(scores, hidden.clone(), f32::NEG_INFINITY.into());
        // A query that sees no key has no weights.
        let weights = B::float_mask_fill(B::softmax(scores, 3), hidden, 0.0.into());
        (B::float_reshape(weights, self.folded(self.keys)), slope)
    }
}

pub(super) fn forward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    hidden: BoolTensor<B>,
    rule: Scores,
) -> FloatTensor<B> {
    let (s, dtype) = (Sizes::new(&q.shape(), &k.shape()), q.dtype());
    let (weights, _) = s.weights::<B>(s.fold::<B>(q), k, hidden, rule);
    s.unfold::<B>(B::float_matmul(cast::<B>(weights, dtype), v))
}

pub(super) fn backward<B: Backend>(
    grad: FloatTensor<B>,
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    hidden: BoolTensor<B>,
    rule: Scores,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (s, dtype) = (Sizes::new(&q.shape(), &k.shape()), q.dtype());
    let (q, grad) = (s.fold::<B>(q), s.fold::<B>(grad));
    let (weights, slope) = s.weights::<B>(q.clone(), k.clone(), hidden, rule);
    let dv = B::float_matmul(B::float_swap_dims(cast::<B>(weights.clone(), dtype), 2, 3), grad.clone());
    let dw = cast::<B>(B::float_matmul(grad, B::float_swap_dims(v, 2, 3)), weights.dtype());
    let dots = B::float_sum_dim(B::float_mul(weights.clone(), dw.clone()), 3);
    let ds = B::float_mul(weights, B::float_sub(dw, dots));
    let ds = match slope {
        Some(slope) => B::float_mul(ds, slope),
        None => ds,
    };
    let ds = B::float_mul_scalar(ds, rule.scale_of(s.d).into());
    let ds = cast::<B>(ds, dtype);
    let dk = B::float_matmul(B::float_swap_dims(ds.clone(), 2, 3), q);
    (s.unfold::<B>(B::float_matmul(ds, k)), dk, dv)
}
