//! Where products are written: a part of the target at a time, by the loops that suit the processor and the sizes.

use gemm::Parallelism;

use super::product::Product;
use super::thin;
#[cfg(target_arch = "x86_64")]
use super::tiles;
use crate::simd::vectorized;

/// Where a product is written. A bare pointer, because the parts that threads write may be columns of one buffer.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub data: *mut f32,
    pub row_stride: usize,
}

#[allow(unsafe_code)]
// SAFETY: threads write disjoint parts (see [`compute_parallel`](super::compute_parallel)).
unsafe impl Send for Target {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// Writes rows `rows` and columns `cols` of the sum of `products`.
    ///
    /// # Safety
    /// The part must lie in the target's memory, and nothing else may read or write it meanwhile.
    #[allow(unsafe_code)]
    pub unsafe fn write(self, products: &[Product<'_>], rows: [usize; 2], cols: [usize; 2]) {
        // A product that is not added does away with those before it.
        let from = products.iter().rposition(|p| !p.add).unwrap_or(0);
        let products: Vec<_> = (products[from..].iter())
            .map(|p| Product { a: p.a.rows(rows[0], rows[1]), b: p.b.cols(cols[0], cols[1]), ..*p })
            .collect();
        if rows[0] == rows[1] || cols[0] == cols[1] {
            return;
        }
        // SAFETY: the caller's for the target; `Mat` guarantees it for the factors.
        unsafe {
            let out = self.data.add(rows[0] * self.row_stride + cols[0]);
            if products.iter().all(thin::is_thin) {
                return thin::write(out, self.row_stride, &products);
            }
            #[cfg(target_arch = "x86_64")]
            if let Some(tiles) = tiles::Tiles::all().last() {
                return tiles.write(out, self.row_stride, &products);
            }
            products.iter().for_each(|product| with_gemm(out, self.row_stride, product));
        }
    }

    /// Multiplies the columns from `left` on of rows `rows` with `factors`.
    ///
    /// # Safety
    /// As [`Self::write`], and the values must have been written.
    #[allow(unsafe_code)]
    pub unsafe fn scale(self, factors: &[f32], rows: [usize; 2], left: usize) {
        vectorized(
            #[inline(always)]
            || {
                for row in rows[0]..rows[1] {
                    // SAFETY: the caller's.
                    let values = unsafe {
                        std::slice::from_raw_parts_mut(self.data.add(row * self.row_stride + left), factors.len())
                    };
                    for (value, factor) in values.iter_mut().zip(factors) {
                        *value *= factor;
                    }
                }
            },
        );
    }
}

/// # Safety
/// The product's rows and columns must lie at `out`, where nothing else reads or writes meanwhile.
#[allow(unsafe_code)]
pub(super) unsafe fn with_gemm(out: *mut f32, row_stride: usize, product: &Product<'_>) {
    let (a, b) = (product.a, product.b);
    let (left, right) = (a.single(), b.single());
    // SAFETY: the caller's for the target; `Mat` guarantees it for the factors.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out,
            1,
            row_stride as isize,
            product.add,
            left.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            right.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            product.alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
