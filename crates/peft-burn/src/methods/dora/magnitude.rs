//! DoRA's magnitudes, for linear layers and embeddings alike.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use fused_burn::Weight;

use crate::constant::Cached;

/// The learned row norms, and what is needed to divide by the present ones.
#[derive(Module, Debug)]
pub struct Magnitude {
    magnitude: Param<Tensor<1>>,
    /// ‖W‖² of each row.
    base: Cached<1>,
    /// ‖W + s·B·A‖ of each row.
    norm: Cached<1>,
}

impl Magnitude {
    /// Starts at the norms that W + s·B·A has now.
    pub(crate) fn new(weight: &Weight, a: &Tensor<2>, b: &Tensor<2>, scaling: f64) -> Self {
        let (base, norm) = (Cached::of_base(), Cached::of_parameters());
        let start = row_norms(weight, &base, a, b, scaling);
        Self { magnitude: Param::from_tensor(start), base, norm }
    }

    /// The learned norms m: `[out]`.
    pub fn magnitude(&self) -> &Param<Tensor<1>> {
        &self.magnitude
    }

    pub(crate) fn magnitude_mut(&mut self) -> &mut Param<Tensor<1>> {
        &mut self.magnitude
    }

    /// The row norms of W: `[out]`.
    pub(crate) fn base_norms(&self, weight: &Weight) -> Tensor<1> {
        squared_norms(weight, &self.base).sqrt()
    }

    /// c = m / ‖W + s·B·A‖, `[out]`, for W `[out, in]`, A `[r, in]` and B `[out, r]`. A row that is zero throughout
    /// gets c = m.
    pub(crate) fn factor(&self, weight: &Weight, a: &Tensor<2>, b: &Tensor<2>, scaling: f64) -> Tensor<1> {
        let norm = self.norm.get_or(|| {
            let norm = row_norms(weight, &self.base, a, b, scaling);
            norm.clone().mask_fill(norm.equal_elem(0.0), 1.0)
        });
        self.magnitude.val() / norm
    }

    /// To be called before A or B are written into.
    pub(crate) fn forget_norm(&mut self) {
        self.norm.forget();
    }

    /// To be called before W is written into.
    pub(crate) fn forget_base(&mut self) {
        self.base.forget();
        self.norm.forget();
    }

    /// To be called where Burn's mappers reach W.
    pub(crate) fn base_is_visible(&mut self) {
        self.base = Cached::of_parameters();
    }
}

/// ‖W‖² of each row, `[out]`.
fn squared_norms(weight: &Weight, known: &Cached<1>) -> Tensor<1> {
    known.get_or(|| by_rows(weight, |w| w.powi_scalar(2).sum_dim(1)).squeeze_dim(1))
}

/// ‖W + s·B·A‖ of each row, `[out]`, outside the autodiff graph.
fn row_norms(weight: &Weight, base: &Cached<1>, a: &Tensor<2>, b: &Tensor<2>, scaling: f64) -> Tensor<1> {
    let [a, b] = [a, b].map(|t| t.clone().inner());
    let base = squared_norms(weight, base);
    let at = a.clone().transpose();
    let cross = by_rows(weight, |w| w.matmul(at.clone())).mul_scalar(2.0 * scaling);
    let own = b.clone().matmul(a.matmul(at)).mul_scalar(scaling * scaling);
    let square = base + ((cross + own) * b).sum_dim(1).squeeze_dim(1);
    // Rounding may leave a square a hair below zero.
    square.clamp_min(0.0).sqrt()
}

/// `f` of blocks of rows in f32: of a narrower or strided weight only a block is ever copied.
fn by_rows(weight: &Weight, f: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
    const BLOCK: usize = 1 << 22;
    let [rows, columns] = weight.dims();
    let step = (BLOCK / columns.max(1)).max(1);
    let block = |start| f(weight.rows(start, step.min(rows - start)).inner().cast(DType::F32));
    Tensor::cat((0..rows).step_by(step).map(block).collect(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, matrix};

    #[test]
    fn gram_identity_gives_the_dense_norm_in_blocks_too() {
        let (a, b) = (matrix(2, 7, 2), matrix(5, 2, 3));
        let w = matrix(5, 7, 1);
        let dense = (w.clone() + b.clone().matmul(a.clone()).mul_scalar(1.5)).powi_scalar(2).sum_dim(1).sqrt();
        let gram = row_norms(&w.clone().into(), &Cached::of_base(), &a, &b, 1.5);
        close(gram.unsqueeze_dim(1), dense);
        // A weight as wide as a block is taken a row at a time.
        let wide = matrix(3, 1 << 22, 4);
        let sums = by_rows(&wide.clone().into(), |w| w.sum_dim(1));
        assert_eq!(sums.dims(), [3, 1]);
        close(sums.div_scalar(2048.0), wide.sum_dim(1).div_scalar(2048.0));
    }
}
