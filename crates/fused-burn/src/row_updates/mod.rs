//! Adapters of a mixed batch: what each does to its own rows of a projection, all of them in one operation.
//!
//! `y = l ∘ (p + s·(x·Aᵀ)·Bᵀ + λ_b ∘ ((λ_d ∘ (x·Aᵀ))·Bᵀ)) + b` for each group of rows, where a group has what its adapter
//! has of these. It is for inference: nothing in it has a gradient.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::host::{back, on_host};

mod cpu;

#[cfg(test)]
mod tests;

/// An update of low rank in host memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowLowRank {
    /// The rank.
    pub rank: usize,
    /// A: `[rank, in]`.
    pub a: Vec<f32>,
    /// The transpose of s·B: `[rank, out]`.
    pub b: Vec<f32>,
}

/// A pair of matrices that many adapters have in common, as VeRA's. A layer uses the first columns of A and the first rows of
/// B.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedPair {
    /// The rank.
    pub rank: usize,
    /// Columns of A.
    pub inputs: usize,
    /// Rows of B.
    pub outputs: usize,
    /// A: `[rank, inputs]`.
    pub a: Vec<f32>,
    /// B: `[outputs, rank]`.
    pub b: Vec<f32>,
}

/// An update by a pair that others share.
#[derive(Clone, Debug)]
pub struct RowShared {
    /// The pair; rows of groups with one pair that follow each other are multiplied together.
    pub pair: Arc<SharedPair>,
    /// λ_d: `[rank]`.
    pub d: Vec<f32>,
    /// λ_b: `[out]`.
    pub b: Vec<f32>,
}

/// The work of an adapter on a row of a projection. Empty parts are left out.
#[derive(Clone, Debug, Default)]
pub struct RowUpdate {
    /// Outputs that are another product with x: their places, and a row (`[in]`) for each.
    pub replaced: Vec<(usize, Vec<f32>)>,
    /// An update of low rank.
    pub low_rank: Option<RowLowRank>,
    /// An update by a shared pair.
    pub shared: Option<RowShared>,
    /// The factor of the sum: `[out]`, or empty.
    pub scale: Vec<f32>,
    /// The last summand: `[out]`, or empty.
    pub bias: Vec<f32>,
}

impl RowUpdate {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { replaced, low_rank, shared, scale, bias } = self;
        replaced.is_empty() && low_rank.is_none() && shared.is_none() && scale.is_empty() && bias.is_empty()
    }

    /// Bytes of the values, without those of the pair.
    pub fn num_bytes(&self) -> usize {
        let replaced: usize = self.replaced.iter().map(|(_, row)| row.len()).sum();
        let low_rank = self.low_rank.as_ref().map_or(0, |l| l.a.len() + l.b.len());
        let shared = self.shared.as_ref().map_or(0, |s| s.d.len() + s.b.len());
        4 * (replaced + low_rank + shared + self.scale.len() + self.bias.len())
    }
}

/// Rows that follow each other, and what happens to them.
#[derive(Clone, Debug)]
pub struct RowGroup<'a> {
    /// The rows.
    pub rows: Range<usize>,
    /// Their update.
    pub update: &'a RowUpdate,
}

/// `products`, each `x·Wᵀ` of one projection of x (`[n, in]`), with what happens to groups of its rows. `groups` are in the
/// order of the rows, which they need not cover. What projections of one x have in common is computed once.
///
/// # Shapes
/// `products[i]`: `[n, out_i]`, and so is the result.
///
/// # Panics
/// Groups that overlap or lie outside of the rows, and updates of other sizes.
pub fn update_rows<const N: usize>(
    products: [Tensor<2>; N],
    x: &Tensor<2>,
    groups: [Vec<RowGroup<'_>>; N],
) -> [Tensor<2>; N] {
    if groups.iter().all(Vec::is_empty) {
        return products;
    }
    let device = x.device();
    let dtypes = products.each_ref().map(Tensor::dtype);
    let found = cpu::update_rows(products.map(on_host).into(), on_host(x.clone()), &groups);
    let mut found = found.into_iter().zip(dtypes);
    std::array::from_fn(|_| match found.next() {
        Some((y, dtype)) => back(y, dtype, &device),
        None => unreachable!("as many results as products"),
    })
}

/// `x` (`[n, in]`) with the rows of each range times its vector (`[in]`).
pub fn scale_rows(x: Tensor<2>, groups: &[(Range<usize>, &[f32])]) -> Tensor<2> {
    if groups.is_empty() {
        return x;
    }
    let (device, dtype) = (x.device(), x.dtype());
    back(cpu::scale_rows(on_host(x), groups), dtype, &device)
}
