//! The function that a gate goes through.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::simd::{sigmoid, tanh};

/// The activation of a gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x·σ(x)`.
    #[default]
    Silu,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, PyTorch's `gelu(approximate="tanh")`.
    GeluTanh,
}

/// √(2/π).
const ROOT: f32 = 0.797_884_56;
const CUBIC: f32 = 0.044_715;

/// An activation as loops over slices take it.
pub(super) trait Curve: Copy + Sync {
    /// The value at x.
    fn value(self, x: f32) -> f32;
    /// The value and the slope at x.
    fn value_and_slope(self, x: f32) -> (f32, f32);
}

#[derive(Clone, Copy)]
pub(super) struct Silu;

impl Curve for Silu {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        x * sigmoid(x)
    }

    #[inline(always)]
    fn value_and_slope(self, x: f32) -> (f32, f32) {
        let sigmoid = sigmoid(x);
        let silu = x * sigmoid;
        (silu, sigmoid + silu * (1.0 - sigmoid))
    }
}

#[derive(Clone, Copy)]
pub(super) struct GeluTanh;

impl Curve for GeluTanh {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        0.5 * x * (1.0 + tanh(ROOT * (x + CUBIC * x * x * x)))
    }

    #[inline(always)]
    fn value_and_slope(self, x: f32) -> (f32, f32) {
        let t = tanh(ROOT * (x + CUBIC * x * x * x));
        let inner = ROOT * (1.0 + 3.0 * CUBIC * x * x);
        (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
    }
}

impl Activation {
    /// The value at each entry, on any backend.
    pub(super) fn value<B: Backend>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Silu => B::float_mul(x.clone(), B::sigmoid(x)),
            Self::GeluTanh => {
                let t = bent::<B>(x.clone());
                B::float_mul(B::float_mul_scalar(x, 0.5.into()), B::float_add_scalar(t, 1.0.into()))
            }
        }
    }

    /// The value and the slope at each entry, on any backend.
    pub(super) fn value_and_slope<B: Backend>(self, x: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
        match self {
            Self::Silu => {
                // silu'(x) = σ(x)·(1 + x·(1 − σ(x))) = σ(x) + silu(x)·(1 − σ(x)).
                let sigmoid = B::sigmoid(x.clone());
                let silu = B::float_mul(x, sigmoid.clone());
                let slope =
                    B::float_add(sigmoid.clone(), B::float_sub(silu.clone(), B::float_mul(silu.clone(), sigmoid)));
                (silu, slope)
            }
            Self::GeluTanh => {
                let t = bent::<B>(x.clone());
                let half = B::float_mul_scalar(B::float_add_scalar(t.clone(), 1.0.into()), 0.5.into());
                let square = B::float_mul(x.clone(), x.clone());
                let inner = B::float_mul_scalar(square, (3.0 * f64::from(CUBIC) * f64::from(ROOT)).into());
                let inner = B::float_add_scalar(inner, f64::from(ROOT).into());
                let rest = B::float_add_scalar(B::float_neg(B::float_mul(t.clone(), t)), 1.0.into());
                let rest = B::float_mul(B::float_mul_scalar(rest, 0.5.into()), inner);
                let slope = B::float_add(half.clone(), B::float_mul(x.clone(), rest));
                (B::float_mul(x, half), slope)
            }
        }
    }
}

/// `tanh(√(2/π)·(x + 0.044715·x³))`.
fn bent<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let cube = B::float_mul(B::float_mul(x.clone(), x.clone()), x.clone());
    let sum = B::float_add(x, B::float_mul_scalar(cube, f64::from(CUBIC).into()));
    B::float_tanh(B::float_mul_scalar(sum, f64::from(ROOT).into()))
}
