//! Matrix products on slices, over strides and into parts of a buffer, on one thread or on all.

use gemm::Parallelism;
use rayon::prelude::*;

/// Multiply-adds below which a product stays on one thread.
const PARALLEL_WORK: usize = 1 << 20;
/// Rows or columns of a part are a multiple of this (the vectors that the products are computed in).
const GRAIN: usize = 16;

/// A matrix that lies in a slice.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows` rows of `cols` values each, one after another.
    ///
    /// # Panics
    /// When `data` is too short, as for every constructor here.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows that begin `row_stride` values apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(extent(rows, cols, row_stride) <= data.len(), "a matrix of {rows} x {cols} outside its slice");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, of the same values in place.
    pub fn t(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// Rows `start..end`.
    pub fn rows(self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.rows, "rows {start}..{end} of {}", self.rows);
        let data = if start == end { &[] } else { &self.data[start * self.row_stride..] };
        Self { data, rows: end - start, ..self }
    }

    /// Columns `start..end`.
    pub fn cols(self, start: usize, end: usize) -> Self {
        self.t().rows(start, end).t()
    }
}

/// A matrix of contiguous rows that can be written.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// As [`Mat::new`].
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// As [`Mat::strided`].
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(extent(rows, cols, row_stride) <= data.len(), "a matrix of {rows} x {cols} outside its slice");
        assert!(cols <= row_stride || rows <= 1, "rows that overlap");
        Self { data, rows, cols, row_stride }
    }
}

/// How many values a matrix reaches over.
fn extent(rows: usize, cols: usize, row_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + cols }
}

/// `alpha·a·b`, or that added to what is there.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// Left factor.
    pub a: Mat<'a>,
    /// Right factor.
    pub b: Mat<'a>,
    /// What the product is multiplied with.
    pub alpha: f32,
    /// Whether it is added to the target's values.
    pub add: bool,
}

impl<'a> Product<'a> {
    /// `a·b`.
    pub fn of(a: Mat<'a>, b: Mat<'a>) -> Self {
        assert_eq!(a.cols, b.rows, "inner sizes of a product");
        Self { a, b, alpha: 1.0, add: false }
    }

    /// Times `alpha`.
    pub fn times(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    /// Added to the target's values.
    pub fn added(self) -> Self {
        Self { add: true, ..self }
    }

    fn work(&self) -> usize {
        self.a.rows * self.a.cols * self.b.cols
    }
}

/// Where a product is written. A bare pointer, because the parts that threads write may be columns of one buffer.
#[derive(Clone, Copy)]
struct Target {
    data: *mut f32,
    row_stride: usize,
}

#[allow(unsafe_code)]
// SAFETY: threads write disjoint parts (see `compute_parts`).
unsafe impl Send for Target {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// Writes rows `rows` and columns `cols` of `product`.
    ///
    /// # Safety
    /// The part must lie in the target's memory, and nothing else may read or write it meanwhile.
    #[allow(unsafe_code)]
    unsafe fn write(self, product: Product<'_>, rows: [usize; 2], cols: [usize; 2]) {
        let (a, b) = (product.a.rows(rows[0], rows[1]), product.b.cols(cols[0], cols[1]));
        if a.rows == 0 || b.cols == 0 {
            return;
        }
        // SAFETY: the caller's for the target; `Mat` guarantees it for the factors.
        unsafe {
            gemm::gemm(
                a.rows,
                b.cols,
                a.cols,
                self.data.add(rows[0] * self.row_stride + cols[0]),
                1,
                self.row_stride as isize,
                product.add,
                a.data.as_ptr(),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr(),
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
}

fn check(out: &MatMut<'_>, products: &[Product<'_>]) {
    for p in products {
        assert_eq!((out.rows, out.cols), (p.a.rows, p.b.cols), "the sizes of a product and its target");
    }
}

/// Computes products into `out`, one after another, on this thread.
pub fn compute(out: MatMut<'_>, products: &[Product<'_>]) {
    check(&out, products);
    let target = Target { data: out.data.as_mut_ptr(), row_stride: out.row_stride };
    for &product in products {
        #[allow(unsafe_code)]
        // SAFETY: `MatMut` guarantees that the rows and columns lie in its slice, which it borrows alone.
        unsafe {
            target.write(product, [0, out.rows], [0, out.cols]);
        }
    }
}

/// Computes products into `out`, one after another, on all threads: each takes a part of the rows or of the columns.
pub fn compute_parallel(out: MatMut<'_>, products: &[Product<'_>]) {
    check(&out, products);
    let (rows, cols) = (out.rows, out.cols);
    let work: usize = products.iter().map(Product::work).sum();
    let threads = rayon::current_num_threads();
    if threads == 1 || work < PARALLEL_WORK {
        return compute(out, products);
    }
    let target = Target { data: out.data.as_mut_ptr(), row_stride: out.row_stride };
    // A right factor whose columns are not contiguous is copied before it is used: that copy is shared out by splitting
    // the columns. Otherwise rows are split, unless there are too few.
    let by_cols =
        products.first().is_some_and(|p| p.b.col_stride != 1) && cols >= GRAIN * threads || rows < GRAIN * threads;
    let size = if by_cols { cols } else { rows };
    let part = size.div_ceil(threads).next_multiple_of(GRAIN);
    (0..size.div_ceil(part)).into_par_iter().for_each(|i| {
        let range = [i * part, ((i + 1) * part).min(size)];
        let (rows, cols) = if by_cols { ([0, rows], range) } else { (range, [0, cols]) };
        for &product in products {
            #[allow(unsafe_code)]
            // SAFETY: `MatMut` borrows its slice alone and reaches over all rows and columns; the ranges are disjoint.
            unsafe {
                target.write(product, rows, cols);
            }
        }
    });
}

/// The product as a new matrix in row-major order, computed on all threads.
pub fn product(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    sum_of_products(&[Product::of(a, b)])
}

/// The sum of products as a new matrix in row-major order, computed on all threads.
pub fn sum_of_products(products: &[Product<'_>]) -> Vec<f32> {
    let Some(first) = products.first() else { return Vec::new() };
    let (rows, cols) = (first.a.rows, first.b.cols);
    let mut out = vec![0.0; rows * cols];
    compute_parallel(MatMut::new(&mut out, rows, cols), products);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::TensorRng;

    fn naive(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
        let at = |m: Mat<'_>, i: usize, j: usize| f64::from(m.data[i * m.row_stride + j * m.col_stride]);
        let cell = |i: usize, j: usize| (0..a.cols).map(|k| at(a, i, k) * at(b, k, j)).sum::<f64>() as f32;
        (0..a.rows).flat_map(|i| (0..b.cols).map(move |j| (i, j))).map(|(i, j)| cell(i, j)).collect()
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= 1e-4 * (1.0 + e.abs()), "{f} instead of {e}");
        }
    }

    #[test]
    fn any_shape_and_orientation() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (33, 17, 50), (130, 70, 129), (65, 300, 16), (2, 64, 700), (700, 64, 2)]
        {
            let rng = &mut TensorRng::new(1, "matrix");
            let (a, b) = (rng.normal(m * k, 1.0), rng.normal(k * n, 1.0));
            for (a, b) in [
                (Mat::new(&a, m, k), Mat::new(&b, k, n)),
                (Mat::new(&a, m, k), Mat::new(&b, n, k).t()),
                (Mat::new(&a, k, m).t(), Mat::new(&b, k, n)),
            ] {
                close(&product(a, b), &naive(a, b));
            }
        }
    }

    #[test]
    fn parts_of_buffers_and_sums() {
        let rng = &mut TensorRng::new(2, "matrix");
        let (a, b, c) = (rng.normal(128 * 100, 1.0), rng.normal(128 * 100, 1.0), rng.normal(100 * 200, 1.0));
        let part = Mat::strided(&c[50..], 100, 128, 200);
        let (a, b) = (Mat::new(&a, 128, 100), Mat::new(&b, 128, 100));
        let mut out = vec![7.0; 128 * 150];
        let both = [Product::of(a, part), Product::of(b, part).times(0.5).added()];
        compute_parallel(MatMut::strided(&mut out[10..], 128, 128, 150), &both);
        let (x, y) = (naive(a, part), naive(b, part));
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + 0.5 * y).collect();
        let found: Vec<f32> = (0..128).flat_map(|r| out[10 + r * 150..][..128].to_vec()).collect();
        close(&found, &expected);
        assert!(out[..10].iter().all(|&v| v == 7.0) && out[10 + 128..160].iter().all(|&v| v == 7.0));
    }

    #[test]
    fn empty_sizes() {
        assert!(product(Mat::new(&[], 0, 3), Mat::new(&[0.0; 6], 3, 2)).is_empty());
        assert_eq!(product(Mat::new(&[], 2, 0), Mat::new(&[], 0, 2)), [0.0; 4]);
    }
}
