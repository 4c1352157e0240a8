//! A product of two matrices, and how it goes into its target.

use super::mat::Mat;

/// `alpha·a·b`, or that added to what is there.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// Left factor.
    pub a: Mat<'a>,
    /// Right factor.
    pub b: Mat<'a>,
    /// The factor of the product.
    pub alpha: f32,
    /// Whether it is added to the target's values.
    pub add: bool,
    /// Whether a left factor in f32 may be rounded to bf16, where the right one is in bf16.
    pub round: bool,
}

impl<'a> Product<'a> {
    /// `a·b`.
    pub fn of(a: Mat<'a>, b: Mat<'a>) -> Self {
        assert_eq!(a.cols, b.rows, "inner sizes of a product");
        Self { a, b, alpha: 1.0, add: false, round: false }
    }

    /// Times `alpha`.
    pub fn times(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    /// Added to the target's values.
    pub fn added(self) -> Self {
        Self { add: true, ..self }
    }

    /// With the left factor rounded to bf16 where that is faster, and the right one in bf16.
    pub fn rounded(self) -> Self {
        Self { round: true, ..self }
    }

    pub(super) fn work(&self) -> usize {
        self.a.rows * self.a.cols * self.b.cols
    }
}
