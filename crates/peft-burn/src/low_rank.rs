//! Updates `s·B·A`, taken out of adapters of any method that has them.

use burn::tensor::{DType, Tensor, TensorData};

use crate::random::TensorRng;
use crate::svd::svd;

/// An update of a weight `[out, in]`; of an embedding `[vocab, hidden]`, of its transpose. In f32, outside any graph.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// A: `[r, in]`.
    pub(crate) a: Tensor<2>,
    /// B: `[out, r]`.
    pub(crate) b: Tensor<2>,
    /// s.
    pub(crate) scaling: f64,
}

impl LowRank {
    pub(crate) fn new(a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Self {
        let plain = |t: Tensor<2>| t.detach().inner().cast(DType::F32);
        Self { a: plain(a), b: plain(b), scaling }
    }

    /// The best update of rank `r` for `delta` (`[out, in]`), at scaling 1.
    pub(crate) fn nearest(delta: Tensor<2>, r: usize) -> Self {
        let [out, inp] = delta.dims();
        let r = r.min(out).min(inp);
        let (u, s, vt) = svd(delta);
        let b = u.narrow(1, 0, r) * s.narrow(0, 0, r).reshape([1, r]);
        Self::new(vt.narrow(0, 0, r), b, 1.0)
    }

    /// As [`Self::nearest`], for a `delta` whose rank is `r` but for rounding, or whose decomposition would take too long: by
    /// subspace iteration (Halko et al. 2011), from a start that is always the same.
    pub(crate) fn leading(delta: Tensor<2>, r: usize) -> Self {
        const MORE: usize = 8;
        const ITERATIONS: usize = 8;
        let [out, inp] = delta.dims();
        let r = r.min(out).min(inp);
        let width = (r + MORE).min(out).min(inp);
        let orthogonal = |m: Tensor<2>| burn::linalg::qr(m, true).0;
        let probe = TensorData::new(TensorRng::new(0, "probe").normal(inp * width, 1.0), [inp, width]);
        let delta = delta.detach().inner().cast(DType::F32);
        let mut q = orthogonal(delta.clone().matmul(Tensor::from_data(probe, (&delta.device(), DType::F32))));
        for _ in 0..ITERATIONS {
            q = orthogonal(delta.clone().matmul(orthogonal(delta.clone().transpose().matmul(q))));
        }
        // Of few rows: `[width, in]`.
        let (u, s, vt) = svd(q.clone().transpose().matmul(delta));
        let b = q.matmul(u.narrow(1, 0, r)) * s.narrow(0, 0, r).reshape([1, r]);
        Self::new(vt.narrow(0, 0, r), b, 1.0)
    }

    pub(crate) fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// `s·B·A`: `[out, in]`.
    pub(crate) fn delta(&self) -> Tensor<2> {
        let ([r, inp], [out, _]) = (self.a.dims(), self.b.dims());
        if r == 0 {
            return Tensor::zeros([out, inp], &self.a.device());
        }
        self.b.clone().matmul(self.a.clone()).mul_scalar(self.scaling)
    }

    /// The same update at scaling 1 with at least `r` rows, the added ones zero.
    pub(crate) fn at_rank(self, r: usize) -> Self {
        let ([rank, inp], [out, _]) = (self.a.dims(), self.b.dims());
        let (device, a, b) = (self.a.device(), self.a.mul_scalar(self.scaling), self.b);
        if rank >= r {
            return Self { a, b, scaling: 1.0 };
        }
        let a = Tensor::cat(vec![a, Tensor::zeros([r - rank, inp], &device)], 0);
        let b = Tensor::cat(vec![b, Tensor::zeros([out, r - rank], &device)], 1);
        Self { a, b, scaling: 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::param::from_vec;
    use crate::random::TensorRng;
    use burn::tensor::{Device, Tolerance};

    #[test]
    fn next_to_nothing_is_found_as_finite_numbers() {
        let device = Device::flex();
        let values = TensorRng::new(1, "l").normal(8 * 6, 1.0);
        let whole = from_vec(values, [8, 6], &device).val();
        let row = whole.clone().slice([0..1, 0..6]).repeat(&[8, 1]);
        let one_row = whole.clone().slice_fill([1..8, 0..6], 0.0);
        for matrix in [whole, row, one_row] {
            for scale in [1.0, 1e-9, 1e-20, 1e-38, 1e-44, 0.0] {
                let delta = matrix.clone().mul_scalar(scale);
                let found = LowRank::nearest(delta.clone(), 6).delta();
                let error = (found - delta).abs().max().into_scalar::<f32>();
                // Below f32's normal range its smallest number is the precision.
                assert!(error <= (1e-5 * scale as f32).max(4.0 * f32::from_bits(1)), "{scale}: {error}");
            }
        }
    }

    #[test]
    fn a_matrix_of_low_rank_is_found_again_and_padding_changes_nothing() {
        let device = Device::flex();
        let mut rng = TensorRng::new(1, "l");
        let [a, b] = [[2, 6], [5, 2]].map(|s| from_vec(rng.normal(s[0] * s[1], 1.0), s, &device).val());
        let update = LowRank::new(a, b, 0.5);
        let delta = update.delta();
        let [two, all, leading] = [
            LowRank::nearest(delta.clone(), 2),
            LowRank::nearest(delta.clone(), 99),
            LowRank::leading(delta.clone(), 2),
        ];
        for found in [two, all, leading, update.at_rank(7)] {
            assert_eq!(found.scaling, 1.0);
            found.delta().into_data().assert_approx_eq::<f32>(&delta.to_data(), Tolerance::absolute(1e-5));
        }
    }

    #[test]
    fn subspace_iteration_comes_as_near_as_the_decomposition() {
        let device = Device::flex();
        let delta = from_vec(TensorRng::new(3, "d").normal(60 * 40, 1.0), [60, 40], &device).val();
        let missing = |found: LowRank| (found.delta() - delta.clone()).powi_scalar(2).sum().into_scalar::<f32>().sqrt();
        let (exact, fast) = (missing(LowRank::nearest(delta.clone(), 6)), missing(LowRank::leading(delta.clone(), 6)));
        // Of noise, whose singular values hardly decline: the hardest case.
        assert!(fast >= exact * 0.9999 && fast < exact * 1.01, "{fast} and {exact}");
    }
}
