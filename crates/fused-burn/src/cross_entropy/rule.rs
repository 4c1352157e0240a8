//! The logits between the head and the softmax.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;

use crate::scores::{cap_all, cap_slope};

/// How a head's product becomes logits. The default leaves it as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitRule {
    /// The divisor of the product (Granite's `logits_scaling`).
    pub divisor: f64,
    /// The soft cap c: a logit l becomes `c·tanh(l/c)` (Gemma 2, arXiv:2408.00118).
    pub softcap: Option<f64>,
}

impl Default for LogitRule {
    fn default() -> Self {
        Self { divisor: 1.0, softcap: None }
    }
}

impl LogitRule {
    /// Whether the product is left as it is.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The logits of a head's product, `[n, vocab]`, in its dtype.
    pub fn apply(&self, product: Tensor<2>) -> Tensor<2> {
        let logits = if self.divisor == 1.0 { product } else { product.div_scalar(self.divisor) };
        match self.softcap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// As [`Self::apply`], with the slope of each logit in the product; `None` where it is 1.
    pub(super) fn with_slope<B: Backend>(&self, product: FloatTensor<B>) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        if self.is_plain() {
            return (product, None);
        }
        let logits = B::float_div_scalar(product, self.divisor.into());
        let one =
            |like: &FloatTensor<B>| B::float_add_scalar(B::float_mul_scalar(like.clone(), 0.0.into()), 1.0.into());
        let (logits, slope) = match self.softcap {
            None => (logits.clone(), one(&logits)),
            Some(cap) => {
                let tanh = B::float_tanh(B::float_div_scalar(logits, cap.into()));
                let square = B::float_mul(tanh.clone(), tanh.clone());
                let slope = B::float_add_scalar(B::float_neg(square), 1.0.into());
                (B::float_mul_scalar(tanh, cap.into()), slope)
            }
        };
        (logits, Some(B::float_div_scalar(slope, self.divisor.into())))
    }

    /// Turns a row of the head's product into logits.
    #[inline(always)]
    pub(super) fn apply_row(&self, row: &mut [f32]) {
        if self.divisor != 1.0 {
            let divisor = self.divisor as f32;
            for l in row.iter_mut() {
                *l /= divisor;
            }
        }
        if let Some(cap) = self.softcap {
            cap_all(row, cap as f32);
        }
    }

    /// Turns the gradients of a row of `logits` into those of the head's product.
    #[inline(always)]
    pub(super) fn back_row(&self, grads: &mut [f32], logits: &[f32]) {
        let factor = 1.0 / self.divisor as f32;
        match self.softcap {
            Some(cap) => {
                for (g, l) in grads.iter_mut().zip(logits) {
                    *g *= cap_slope(*l, cap as f32) * factor;
                }
            }
            None => {
                for g in grads.iter_mut() {
                    *g *= factor;
                }
            }
        }
    }
}
