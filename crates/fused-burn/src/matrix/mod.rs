//! Matrix products on slices, over strides and into parts of a buffer, on one thread or on all.

use rayon::prelude::*;

mod mat;
mod product;
mod target;
#[cfg(test)]
mod tests;
mod thin;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub use mat::{Mat, MatMut};
pub use product::Product;
use target::Target;

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
