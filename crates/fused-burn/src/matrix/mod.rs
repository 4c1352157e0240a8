//! Matrix products on slices, over strides and into parts of a buffer, on one thread or on all.

use std::borrow::Cow;

use gemm::Parallelism;
use half::bf16;
use rayon::prelude::*;

use crate::simd::{vectorized, widen};

#[cfg(test)]
mod tests;
mod thin;
#[cfg(target_arch = "x86_64")]
mod tiles;

/// Multiply-adds below which a product stays on one thread.
const PARALLEL_WORK: usize = 1 << 20;
/// The same for a product of few rows, which waits for memory.
const PARALLEL_THIN_WORK: usize = 1 << 17;
/// Multiply-adds that a task should have at least.
const TASK_WORK: usize = 1 << 18;
/// Tasks for each thread: with one each, all would wait for the slowest.
const TASKS: usize = 4;
/// Columns of a task are a multiple of this.
const COLS: usize = 64;
/// Rows of a task are a multiple of this.
const ROWS: usize = 48;

/// What a matrix holds.
#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    Single(&'a [f32]),
    Half(&'a [bf16]),
}

/// A matrix that lies in a slice. Factors of a product may be in bf16, which is widened where it is read. Where both are, and
/// the processor multiplies bf16, products of it are exact and summed in f32, and values below f32's normal range count as
/// zero.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    values: Values<'a>,
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
        Self { values: Values::Single(data), rows, cols, row_stride, col_stride: 1 }
    }

    /// As [`Self::new`], of values in bf16.
    pub fn half(data: &'a [bf16], rows: usize, cols: usize) -> Self {
        assert!(extent(rows, cols, cols) <= data.len(), "a matrix of {rows} x {cols} outside its slice");
        Self { values: Values::Half(data), rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, of the same values in place.
    pub fn t(self) -> Self {
        let Self { values, rows, cols, row_stride, col_stride } = self;
        Self { values, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// Rows `start..end`.
    pub fn rows(self, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= self.rows, "rows {start}..{end} of {}", self.rows);
        let at = if start == end { 0 } else { start * self.row_stride };
        let values = match self.values {
            Values::Single(values) => Values::Single(&values[at..]),
            Values::Half(values) => Values::Half(&values[at..]),
        };
        Self { values, rows: end - start, ..self }
    }

    /// Columns `start..end`.
    pub fn cols(self, start: usize, end: usize) -> Self {
        self.t().rows(start, end).t()
    }

    /// The values in f32, from the first to the last that the matrix reaches over.
    fn single(&self) -> Cow<'a, [f32]> {
        match self.values {
            Values::Single(values) => Cow::Borrowed(values),
            Values::Half(values) => {
                let reach = match (self.rows, self.cols) {
                    (0, _) | (_, 0) => 0,
                    (rows, cols) => (rows - 1) * self.row_stride + (cols - 1) * self.col_stride + 1,
                };
                Cow::Owned(values[..reach].iter().map(|&v| widen(v)).collect())
            }
        }
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
// SAFETY: threads write disjoint parts (see `compute_parallel`).
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
    unsafe fn write(self, products: &[Product<'_>], rows: [usize; 2], cols: [usize; 2]) {
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
    unsafe fn scale(self, factors: &[f32], rows: [usize; 2], left: usize) {
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
unsafe fn with_gemm(out: *mut f32, row_stride: usize, product: &Product<'_>) {
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

fn check(out: &MatMut<'_>, products: &[Product<'_>]) {
    for p in products {
        assert_eq!((out.rows, out.cols), (p.a.rows, p.b.cols), "the sizes of a product and its target");
    }
}

/// Computes products into `out`, one after another, on this thread.
pub fn compute(out: MatMut<'_>, products: &[Product<'_>]) {
    check(&out, products);
    let target = Target { data: out.data.as_mut_ptr(), row_stride: out.row_stride };
    #[allow(unsafe_code)]
    // SAFETY: `MatMut` guarantees that the rows and columns lie in its slice, which it borrows alone.
    unsafe {
        target.write(products, [0, out.rows], [0, out.cols]);
    }
}

/// Computes products into `out`, one after another, on all threads.
pub fn compute_parallel(out: MatMut<'_>, products: &[Product<'_>]) {
    check(&out, products);
    let target = Target { data: out.data.as_mut_ptr(), row_stride: out.row_stride };
    #[allow(unsafe_code)]
    // SAFETY: `MatMut` guarantees that the rows and columns lie in its slice, which it borrows alone.
    unsafe {
        write_parallel(target, [out.rows, out.cols], products, None);
    }
}

/// Shares a target out in blocks, which the threads take one after another. Each column is multiplied with its value of
/// `scale`, if there is one, while the block is in a cache.
///
/// # Safety
/// `rows` and `cols` must lie in the target's memory, and nothing else may read or write it meanwhile.
#[allow(unsafe_code)]
unsafe fn write_parallel(target: Target, [rows, cols]: [usize; 2], products: &[Product<'_>], scale: Option<&[f32]>) {
    let write = |rows: [usize; 2], cols: [usize; 2]| {
        // SAFETY: the caller's; the blocks are disjoint.
        unsafe {
            target.write(products, rows, cols);
            if let Some(scale) = scale {
                target.scale(&scale[cols[0]..cols[1]], rows, cols[0]);
            }
        }
    };
    let work: usize = products.iter().map(Product::work).sum();
    let threads = rayon::current_num_threads();
    let least = if products.iter().all(thin::is_thin) { PARALLEL_THIN_WORK } else { PARALLEL_WORK };
    if threads == 1 || work < least {
        return write([0, rows], [0, cols]);
    }
    let tasks = (work / TASK_WORK).clamp(threads, TASKS * threads);
    let width = cols.div_ceil(tasks).next_multiple_of(COLS).clamp(COLS, 4 * COLS);
    let across = cols.div_ceil(width);
    // Too few columns for all: rows are shared out too.
    let height = rows.div_ceil(tasks.div_ceil(across)).next_multiple_of(ROWS);
    let down = rows.div_ceil(height);
    (0..across * down).into_par_iter().with_max_len(1).for_each(|task| {
        let (top, left) = (task / across * height, task % across * width);
        write([top, (top + height).min(rows)], [left, (left + width).min(cols)]);
    });
}

/// The product as a new matrix in row-major order, computed on all threads.
pub fn product(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    sum_of_products(&[Product::of(a, b)])
}

/// The sum of products as a new matrix in row-major order, computed on all threads.
pub fn sum_of_products(products: &[Product<'_>]) -> Vec<f32> {
    new_matrix(products, None)
}

/// As [`sum_of_products`], each column times its value of `scale`.
pub fn scaled_sum_of_products(products: &[Product<'_>], scale: &[f32]) -> Vec<f32> {
    new_matrix(products, Some(scale))
}

fn new_matrix(products: &[Product<'_>], scale: Option<&[f32]>) -> Vec<f32> {
    let Some(first) = products.first() else { return Vec::new() };
    let (rows, cols) = (first.a.rows, first.b.cols);
    assert!(!first.add, "there is nothing that the first product could be added to");
    for p in products {
        assert_eq!((rows, cols), (p.a.rows, p.b.cols), "the sizes of the products of a sum");
    }
    assert!(scale.is_none_or(|scale| scale.len() == cols), "a factor for each of {cols} columns");
    let mut out = Vec::with_capacity(rows * cols);
    let target = Target { data: out.as_mut_ptr(), row_stride: cols };
    #[allow(unsafe_code)]
    // SAFETY: there is room for all rows and columns, and a product that is not added writes every one of them.
    unsafe {
        write_parallel(target, [rows, cols], products, scale);
        out.set_len(rows * cols);
    }
    out
}
