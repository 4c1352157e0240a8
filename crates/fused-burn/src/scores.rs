//! The scores of attention, and the softmax that makes weights of them.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::simd::{exp, max, sum, tanh};

/// How scores are made of the products of queries and keys. The default is Llama's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// The factor of the products. `None`: `1/√d` for heads of width d.
    pub scale: Option<f32>,
    /// The soft cap c: a score s becomes `c·tanh(s/c)` (Gemma 2, arXiv:2408.00118).
    pub softcap: Option<f32>,
}

impl Scores {
    /// The factor of the products, for heads of width `d`.
    pub(crate) fn scale_of(&self, d: usize) -> f32 {
        self.scale.unwrap_or_else(|| 1.0 / (d as f32).sqrt())
    }

    /// Caps scores of any backend. Returns them, and the cap's slope at each where it is asked for.
    pub(crate) fn capped<B: Backend>(
        &self,
        scores: FloatTensor<B>,
        with_slope: bool,
    ) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        let Some(cap) = self.softcap else { return (scores, None) };
        let tanh = B::float_tanh(B::float_div_scalar(scores, cap.into()));
        let slope = with_slope.then(|| {
            let square = B::float_mul(tanh.clone(), tanh.clone());
            B::float_add_scalar(B::float_neg(square), 1.0.into())
        });
        (B::float_mul_scalar(tanh, cap.into()), slope)
    }
}

/// `c·tanh(s/c)` of each score s, for a cap c.
#[inline(always)]
pub(crate) fn cap_all(scores: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for s in scores.iter_mut() {
        *s = cap * tanh(*s * inverse);
    }
}

/// The slope of the cap c where its value is `capped`: `1 − (capped/c)²`.
#[inline(always)]
pub(crate) fn cap_slope(capped: f32, cap: f32) -> f32 {
    let t = capped / cap;
    1.0 - t * t
}

/// Scores become weights. A query that sees no key has no weights.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32]) {
    let largest = max(scores);
    if largest == f32::NEG_INFINITY {
        scores.fill(0.0);
        return;
    }
    for s in scores.iter_mut() {
        *s = exp(*s - largest);
    }
    let total = sum(
        scores.len(),
        #[inline(always)]
        |i| scores[i],
    );
    let factor = 1.0 / total;
    for s in scores.iter_mut() {
        *s *= factor;
    }
}
