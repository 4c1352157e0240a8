//! Products for processors with AVX2 and FMA, after Goto and van de Geijn (2008): the right factor is copied, a block at a
//! time, into the order in which it is read, and the target is computed in tiles of 6 x 16 that stay in registers.
//!
//! The sum of several products is one pass over the target. A right factor in bf16 is widened where it is copied, so that it
//! is read at half the cost and never exists in f32.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};
use std::cell::RefCell;

use burn::tensor::bf16;

use super::{Mat, Product, Values};
use crate::ops::simd::widen;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;
/// Columns of a tile: two vectors.
pub(super) const COLS: usize = 16;
/// How much of the inner dimension is taken at a time: a panel of the right factor then fits the first-level cache.
const DEPTH: usize = 256;
/// What a group of segments may have beyond that: the inner dimension of a low-rank update goes with the last block.
const EXTRA: usize = 64;
/// Rows for which a block of the left factor stays in the second-level cache.
const BLOCK_ROWS: usize = 20 * ROWS;
/// Columns of the right factor that are copied at a time.
const BLOCK_COLS: usize = 16 * COLS;
/// Up to so many rows, copying the right factor costs more than reading it where it is.
const DIRECT_ROWS: usize = 3 * ROWS;

/// Whether the processor has what this needs. With AVX-512 the wider kernels of `gemm` are used.
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && !is_x86_feature_detected!("avx512f")
}

thread_local! {
    static RIGHT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static LEFT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A part of a product along its inner dimension, ready to be read.
#[derive(Clone, Copy)]
struct Segment {
    depth: usize,
    /// Row by row.
    a: *const f32,
    a_stride: usize,
    /// A panel of 16 columns, row by row.
    b: *const f32,
    b_stride: usize,
    /// From one panel to the next.
    b_panel: usize,
}

/// Writes the sum of `products`, all of one size, to `out`.
///
/// # Safety
/// The processor must be [`supported`]; the products' rows and columns must lie at `out`, where nothing else reads or writes
/// meanwhile.
pub(super) unsafe fn write(out: *mut f32, row_stride: usize, products: &[Product<'_>]) {
    let Some(first) = products.first() else { return };
    let (rows, cols) = (first.a.rows, first.b.cols);
    let groups = groups(products);
    if groups.is_empty() && !first.add {
        for row in 0..rows {
            // SAFETY: the caller's.
            unsafe { std::slice::from_raw_parts_mut(out.add(row * row_stride), cols).fill(0.0) };
        }
    }
    RIGHT.with_borrow_mut(|right| {
        LEFT.with_borrow_mut(|left| {
            for start in (0..cols).step_by(BLOCK_COLS) {
                let end = (start + BLOCK_COLS).min(cols);
                for (i, group) in groups.iter().enumerate() {
                    let add = first.add || i > 0;
                    // SAFETY: the caller's; columns `start..end` lie in the target.
                    unsafe { write_group(out.add(start), row_stride, group, [rows, start, end], add, right, left) };
                }
            }
        });
    });
}

/// A part of a product: `from..from + depth` of its inner dimension.
type Part<'a> = (Product<'a>, usize, usize);

/// The products in parts, of which those that are computed in one pass lie together.
fn groups<'a>(products: &[Product<'a>]) -> Vec<Vec<Part<'a>>> {
    let mut groups: Vec<Vec<Part<'a>>> = Vec::new();
    let mut room = 0;
    for &product in products {
        let inner = product.a.cols;
        let step = inner.div_ceil(inner.div_ceil(DEPTH).max(1)).next_multiple_of(8);
        for from in (0..inner).step_by(step.max(1)) {
            let depth = step.min(inner - from);
            if depth > room || groups.is_empty() {
                groups.push(Vec::new());
                room = DEPTH + EXTRA;
            }
            room -= depth.min(room);
            if let Some(group) = groups.last_mut() {
                group.push((product, from, depth));
            }
        }
    }
    groups
}

/// # Safety
/// As [`write`].
unsafe fn write_group(
    out: *mut f32,
    row_stride: usize,
    group: &[Part<'_>],
    [rows, start, end]: [usize; 3],
    add: bool,
    right: &mut Vec<f32>,
    left: &mut Vec<f32>,
) {
    let cols = end - start;
    let whole = cols / COLS * COLS;
    let padded = cols.next_multiple_of(COLS);
    let depth: usize = group.iter().map(|(_, _, depth)| depth).sum();
    reserve(right, depth * padded);
    reserve(left, depth * BLOCK_ROWS.min(rows.next_multiple_of(ROWS)));
    // Right factors: copied, or read where they are.
    let mut segments = Vec::with_capacity(group.len());
    let mut edges = Vec::new();
    let mut free = &mut right[..];
    for &(product, from, depth) in group {
        let b = product.b.rows(from, from + depth).cols(start, end);
        let (copied, rest) = free.split_at_mut(depth * padded);
        free = rest;
        let segment = Segment {
            depth,
            a: std::ptr::null(),
            a_stride: 0,
            b: copied.as_ptr(),
            b_stride: COLS,
            b_panel: depth * COLS,
        };
        match b.values {
            Values::Single(values) if rows <= DIRECT_ROWS && b.col_stride == 1 && product.alpha == 1.0 => {
                segments.push(Segment { b: values.as_ptr(), b_stride: b.row_stride, b_panel: COLS, ..segment });
                if whole < cols {
                    // SAFETY: the processor is supported.
                    unsafe { copy_right(b.cols(whole, cols), 1.0, copied) };
                    edges.push(segment);
                }
            }
            _ => {
                // SAFETY: the processor is supported.
                unsafe { copy_right(b, product.alpha, copied) };
                segments.push(segment);
                if whole < cols {
                    edges.push(Segment { b: copied[whole * depth..].as_ptr(), ..segment });
                }
            }
        }
    }
    for top in (0..rows).step_by(BLOCK_ROWS) {
        let bottom = (top + BLOCK_ROWS).min(rows);
        let mut free = &mut left[..];
        for (i, &(product, from, depth)) in group.iter().enumerate() {
            let a = product.a.rows(top, bottom).cols(from, from + depth);
            let Values::Single(values) = a.values else { unreachable!("left factors are in f32") };
            let (a, a_stride) = if a.col_stride == 1 {
                (values.as_ptr(), a.row_stride)
            } else {
                let (copied, rest) = free.split_at_mut(depth * (bottom - top));
                free = rest;
                copy_left(values, a.col_stride, depth, copied);
                (copied.as_ptr(), depth)
            };
            (segments[i].a, segments[i].a_stride) = (a, a_stride);
            if let Some(edge) = edges.get_mut(i) {
                (edge.a, edge.a_stride) = (a, a_stride);
            }
        }
        for panel in 0..whole / COLS {
            for row in (top..bottom).step_by(ROWS) {
                let height = ROWS.min(bottom - row);
                // SAFETY: the tile lies in the target, and the segments reach over its rows and columns.
                unsafe {
                    let out = out.add(row * row_stride + panel * COLS);
                    tile_of(height, &segments, [row - top, panel], out, row_stride, add);
                }
            }
        }
        for row in (top..bottom).step_by(ROWS).filter(|_| whole < cols) {
            let height = ROWS.min(bottom - row);
            let mut edge = [0.0; ROWS * COLS];
            // SAFETY: the last panel is filled up with zeros, and `edge` holds a whole tile.
            unsafe { tile_of(height, &edges, [row - top, 0], edge.as_mut_ptr(), COLS, false) };
            for (i, values) in edge.chunks_exact(COLS).take(height).enumerate() {
                for (j, &value) in values[..cols - whole].iter().enumerate() {
                    // SAFETY: these columns lie in the target.
                    unsafe {
                        let out = out.add((row + i) * row_stride + whole + j);
                        *out = if add { *out + value } else { value };
                    }
                }
            }
        }
    }
}

fn reserve(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

/// # Safety
/// The processor must be [`supported`]; the segments must reach over `height` rows from `row` and the columns of `panel`, and
/// `out` over a tile.
unsafe fn tile_of(
    height: usize,
    segments: &[Segment],
    [row, panel]: [usize; 2],
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        match height {
            6 => tile::<6>(segments, row, panel, out, stride, add),
            5 => tile::<5>(segments, row, panel, out, stride, add),
            4 => tile::<4>(segments, row, panel, out, stride, add),
            3 => tile::<3>(segments, row, panel, out, stride, add),
            2 => tile::<2>(segments, row, panel, out, stride, add),
            _ => tile::<1>(segments, row, panel, out, stride, add),
        }
    }
}

/// One tile of `R` rows.
///
/// # Safety
/// As [`tile_of`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize>(
    segments: &[Segment],
    row: usize,
    panel: usize,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    const UNROLLED: usize = 4;
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for s in segments {
        // SAFETY: the segment reaches over these rows and this panel, `depth` entries deep.
        unsafe {
            let (mut a, mut b) = (s.a.add(row * s.a_stride), s.b.add(panel * s.b_panel));
            for _ in 0..s.depth / UNROLLED {
                for k in 0..UNROLLED {
                    step(&mut sums, a.add(k), s.a_stride, b.add(k * s.b_stride));
                }
                (a, b) = (a.add(UNROLLED), b.add(UNROLLED * s.b_stride));
            }
            for k in 0..s.depth % UNROLLED {
                step(&mut sums, a.add(k), s.a_stride, b.add(k * s.b_stride));
            }
        }
    }
    for (i, [left, right]) in sums.into_iter().enumerate() {
        // SAFETY: `out` reaches over the tile.
        unsafe {
            let out = out.add(i * stride);
            let (left, right) = if add {
                (_mm256_add_ps(left, _mm256_loadu_ps(out)), _mm256_add_ps(right, _mm256_loadu_ps(out.add(8))))
            } else {
                (left, right)
            };
            _mm256_storeu_ps(out, left);
            _mm256_storeu_ps(out.add(8), right);
        }
    }
}

/// Adds a column of the left factor times a row of the right one.
///
/// # Safety
/// `a` must reach over `R` rows, and `b` over 16 values.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn step<const R: usize>(sums: &mut [[__m256; 2]; R], a: *const f32, a_stride: usize, b: *const f32) {
    // SAFETY: the caller's.
    unsafe {
        let (left, right) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
        for (i, sums) in sums.iter_mut().enumerate() {
            let factor = _mm256_set1_ps(*a.add(i * a_stride));
            sums[0] = _mm256_fmadd_ps(factor, left, sums[0]);
            sums[1] = _mm256_fmadd_ps(factor, right, sums[1]);
        }
    }
}

/// Copies a matrix times `alpha` into panels of 16 columns, each row by row, the last one filled up with zeros.
///
/// # Safety
/// The processor must be [`supported`].
unsafe fn copy_right(b: Mat<'_>, alpha: f32, out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        match b.values {
            Values::Single(values) => copy_panels(b, values, alpha, out),
            Values::Half(values) => copy_panels(b, values, alpha, out),
        }
    }
}

/// A value of a right factor.
trait Value: Copy {
    fn single(self) -> f32;
}

impl Value for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }
}

impl Value for bf16 {
    #[inline(always)]
    fn single(self) -> f32 {
        widen(self)
    }
}

/// `values` are those of `b`.
#[target_feature(enable = "avx2,fma")]
fn copy_panels<T: Value>(b: Mat<'_>, values: &[T], alpha: f32, out: &mut [f32]) {
    if b.col_stride == 1 {
        // Row by row, in the order in which memory is read.
        let panel = b.rows * COLS;
        for k in 0..b.rows {
            let row = &values[k * b.row_stride..][..b.cols];
            let (whole, rest) = row.as_chunks::<COLS>();
            for (i, from) in whole.iter().enumerate() {
                out[i * panel + k * COLS..][..COLS].copy_from_slice(&from.map(|value| value.single() * alpha));
            }
            if !rest.is_empty() {
                let to = &mut out[whole.len() * panel + k * COLS..][..COLS];
                to.iter_mut().zip(rest).for_each(|(to, from)| *to = from.single() * alpha);
                to[rest.len()..].fill(0.0);
            }
        }
        return;
    }
    for (first, panel) in (0..b.cols).step_by(COLS).zip(out.chunks_mut((b.rows * COLS).max(1))) {
        let width = COLS.min(b.cols - first);
        if width < COLS {
            panel.fill(0.0);
        }
        // The columns lie one after another: blocks of 8 x 8 are transposed on the way.
        let column = |j: usize| &values[(first + j) * b.col_stride..][..(b.rows - 1) * b.row_stride + 1];
        let blocks = if b.row_stride == 1 { b.rows / 8 } else { 0 };
        for half in (0..width / 8).filter(|_| blocks > 0) {
            let columns: [&[[T; 8]]; 8] = std::array::from_fn(|j| column(8 * half + j).as_chunks().0);
            for block in 0..blocks {
                let lines = columns.map(|c| {
                    let part = c[block].map(|value| value.single() * alpha);
                    // SAFETY: eight values are read.
                    unsafe { _mm256_loadu_ps(part.as_ptr()) }
                });
                let to = &mut panel[8 * block * COLS + 8 * half..][..7 * COLS + 8];
                for (i, line) in transposed(lines).into_iter().enumerate() {
                    // SAFETY: `to` reaches over eight rows of a panel from this half on.
                    unsafe { _mm256_storeu_ps(to.as_mut_ptr().add(i * COLS), line) };
                }
            }
        }
        for j in 0..width {
            let done = if j < width / 8 * 8 { 8 * blocks } else { 0 };
            let column = column(j);
            for k in done..b.rows {
                panel[k * COLS + j] = column[k * b.row_stride].single() * alpha;
            }
        }
    }
}

/// The transpose of eight rows of eight.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transposed(rows: [__m256; 8]) -> [__m256; 8] {
    let pairs: [__m256; 8] = std::array::from_fn(|i| match i % 2 {
        0 => _mm256_unpacklo_ps(rows[i], rows[i + 1]),
        _ => _mm256_unpackhi_ps(rows[i - 1], rows[i]),
    });
    // Columns 0 and 4, 1 and 5, 2 and 6, 3 and 7 of the first four rows, then of the last four.
    let fours: [__m256; 8] = std::array::from_fn(|i| {
        let (upper, lower) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { _mm256_shuffle_ps::<0x44>(upper, lower) } else { _mm256_shuffle_ps::<0xEE>(upper, lower) }
    });
    std::array::from_fn(|i| match i / 4 {
        0 => _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]),
        _ => _mm256_permute2f128_ps::<0x31>(fours[i - 4], fours[i]),
    })
}

/// Copies a matrix whose columns lie `stride` apart, one value after another, into rows of `depth`.
fn copy_left(values: &[f32], stride: usize, depth: usize, out: &mut [f32]) {
    // A few rows at a time, so that what is read of each column is a whole line of the cache.
    const LINES: usize = 16;
    for (block, out) in out.chunks_mut(LINES * depth).enumerate() {
        let height = out.len() / depth;
        for k in 0..depth {
            let from = &values[k * stride + block * LINES..][..height];
            for (i, value) in from.iter().enumerate() {
                out[i * depth + k] = *value;
            }
        }
    }
}
