//! Copies of factors in the order in which tiles read them.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
    _mm256_unpacklo_ps,
};
use std::cell::RefCell;

use half::bf16;

use super::kernel::COLS;
use crate::matrix::mat::{Mat, Values};
use crate::simd::{narrow, vectorized, widen};

/// Copies a right factor times `alpha` into panels of `COLS` columns, each row by row, the last one filled up with zeros.
///
/// # Safety
/// The processor must have AVX-512, and with it AVX2 and FMA.
pub(super) unsafe fn right(b: Mat<'_>, alpha: f32, out: &mut [f32]) {
    let layout = Layout { rows: b.rows, cols: b.cols, row_stride: b.row_stride, col_stride: b.col_stride };
    // SAFETY: the caller's.
    unsafe {
        match b.values {
            Values::Single(values) => {
                panels(
                    layout,
                    values,
                    out,
                    #[inline(always)]
                    |v| v * alpha,
                );
            }
            Values::Half(values) => {
                panels(
                    layout,
                    values,
                    out,
                    #[inline(always)]
                    |v| widen(v) * alpha,
                );
            }
            Values::Packed(view, start) => DECODED.with_borrow_mut(|values| {
                let layout = runs(b, start, values, 0.0, |at, out| view.decode(at, out));
                panels(
                    layout,
                    values,
                    out,
                    #[inline(always)]
                    |v| v * alpha,
                );
            }),
        }
    }
}

thread_local! {
    static DECODED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static HALVES: RefCell<Vec<bf16>> = const { RefCell::new(Vec::new()) };
}

/// Decodes a packed factor into `values`, run by run of values that follow each other, by `decode` from a position on.
fn runs<T: Copy>(b: Mat<'_>, start: usize, values: &mut Vec<T>, zero: T, decode: impl Fn(usize, &mut [T])) -> Layout {
    let by_rows = b.col_stride == 1;
    let (runs, length, stride) = if by_rows { (b.rows, b.cols, b.row_stride) } else { (b.cols, b.rows, b.col_stride) };
    if values.len() < runs * length {
        values.resize(runs * length, zero);
    }
    if stride == length {
        decode(start, &mut values[..runs * length]);
    } else {
        for (run, out) in values.chunks_mut(length.max(1)).take(runs).enumerate() {
            decode(start + run * stride, out);
        }
    }
    let (row_stride, col_stride) = if by_rows { (length, 1) } else { (1, length) };
    Layout { rows: b.rows, cols: b.cols, row_stride, col_stride }
}

/// As [`right`] for bf16 that stays bf16: two rows share one, pair by pair, and a last single one is paired with zeros.
///
/// # Safety
/// The processor must have AVX-512, and with it AVX2 and FMA.
pub(super) unsafe fn right_pairs(b: Mat<'_>, out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        match b.values {
            Values::Half(values) => half_pairs(b, values, out),
            Values::Packed(view, start) => HALVES.with_borrow_mut(|values| {
                let layout = runs(b, start, values, bf16::ZERO, |at, out| view.decode_half(at, out));
                let Layout { row_stride, col_stride, .. } = layout;
                half_pairs(Mat { row_stride, col_stride, ..b }, values, out);
            }),
            Values::Single(_) => unreachable!("only bf16 is multiplied in pairs"),
        }
    }
}

/// # Safety
/// As [`right_pairs`].
unsafe fn half_pairs(b: Mat<'_>, values: &[bf16], out: &mut [f32]) {
    let depth = b.rows.div_ceil(2);
    // Neighbours along the inner dimension that are neighbours in memory are a pair as they lie.
    if b.row_stride == 1 && b.rows.is_multiple_of(2) && b.col_stride.is_multiple_of(2) {
        // SAFETY: any bits are a `u32`.
        let (before, pairs, _) = unsafe { values.align_to::<u32>() };
        if before.is_empty() {
            let layout = Layout { rows: depth, cols: b.cols, row_stride: 1, col_stride: b.col_stride / 2 };
            // SAFETY: the caller's.
            return unsafe { panels(layout, pairs, out, f32::from_bits) };
        }
    }
    let bits = |row: usize, col: usize| match row < b.rows {
        true => u32::from(values[row * b.row_stride + col * b.col_stride].to_bits()),
        false => 0,
    };
    for (first, panel) in (0..b.cols).step_by(COLS).zip(out.chunks_mut((depth * COLS).max(1))) {
        let width = COLS.min(b.cols - first);
        for (pair, to) in panel.as_chunks_mut::<COLS>().0.iter_mut().enumerate().take(depth) {
            if b.col_stride == 1 && width == COLS && 2 * pair + 1 < b.rows {
                let at = 2 * pair * b.row_stride + first;
                let (low, high) = (&values[at..][..COLS], &values[at + b.row_stride..][..COLS]);
                interleave(low, high, to);
            } else {
                to.fill(0.0);
                for (j, to) in to.iter_mut().enumerate().take(width) {
                    *to = f32::from_bits(bits(2 * pair, first + j) | bits(2 * pair + 1, first + j) << 16);
                }
            }
        }
    }
}

/// Pairs of the values of two rows.
fn interleave(low: &[bf16], high: &[bf16], to: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
                *to = f32::from_bits(u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16);
            }
        },
    );
}

/// Where the values of a matrix lie.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// # Safety
/// The processor must have AVX-512, and with it AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn panels<T: Copy>(b: Layout, values: &[T], out: &mut [f32], single: impl Fn(T) -> f32) {
    if b.col_stride == 1 {
        // Row by row, in the order in which memory is read.
        let panel = b.rows * COLS;
        for k in 0..b.rows {
            let row = &values[k * b.row_stride..][..b.cols];
            let (whole, rest) = row.as_chunks::<COLS>();
            for (i, from) in whole.iter().enumerate() {
                let to = &mut out[i * panel + k * COLS..][..COLS];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = single(*from));
            }
            if !rest.is_empty() {
                let to = &mut out[whole.len() * panel + k * COLS..][..COLS];
                to.iter_mut().zip(rest).for_each(|(to, from)| *to = single(*from));
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
        for eight in (0..width / 8).filter(|_| blocks > 0) {
            let columns: [&[[T; 8]]; 8] = std::array::from_fn(|j| column(8 * eight + j).as_chunks().0);
            for block in 0..blocks {
                let lines = columns.map(|c| {
                    let part = c[block].map(&single);
                    // SAFETY: eight values are read.
                    unsafe { _mm256_loadu_ps(part.as_ptr()) }
                });
                let to = &mut panel[8 * block * COLS + 8 * eight..][..7 * COLS + 8];
                for (i, line) in transposed(lines).into_iter().enumerate() {
                    // SAFETY: `to` reaches over eight rows of a panel from these columns on.
                    unsafe { _mm256_storeu_ps(to.as_mut_ptr().add(i * COLS), line) };
                }
            }
        }
        for j in 0..width {
            let done = if j < width / 8 * 8 { 8 * blocks } else { 0 };
            let column = column(j);
            for k in done..b.rows {
                panel[k * COLS + j] = single(column[k * b.row_stride]);
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

/// Copies a left factor into rows of its values, widened.
///
/// # Safety
/// The processor must have AVX-512, and with it AVX2 and FMA.
pub(super) unsafe fn left(a: Mat<'_>, out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        match a.values {
            Values::Single(values) => rows(
                a,
                values,
                a.cols,
                out,
                #[inline(always)]
                |v| v,
            ),
            Values::Half(values) => rows(a, values, a.cols, out, widen),
            Values::Packed(..) => rows(
                a,
                &a.single(),
                a.cols,
                out,
                #[inline(always)]
                |v| v,
            ),
        }
    }
}

/// Copies a left factor into rows of pairs of bf16, the last one paired with zero if it is alone.
///
/// # Safety
/// The processor must have AVX-512, and with it AVX2 and FMA.
pub(super) unsafe fn left_pairs(a: Mat<'_>, out: &mut [f32]) {
    let depth = a.cols.div_ceil(2);
    // SAFETY: any bits are bf16, and a place of four bytes is two of them; for the rest, the caller's.
    unsafe {
        let (_, halves, _) = out[..a.rows * depth].align_to_mut::<bf16>();
        if a.cols % 2 == 1 {
            halves.iter_mut().skip(2 * depth - 1).step_by(2 * depth).for_each(|last| *last = bf16::ZERO);
        }
        match a.values {
            Values::Single(values) => rows(a, values, 2 * depth, halves, narrow),
            Values::Half(values) => rows(
                a,
                values,
                2 * depth,
                halves,
                #[inline(always)]
                |v| v,
            ),
            Values::Packed(..) => rows(a, &a.single(), 2 * depth, halves, narrow),
        }
    }
}

/// Copies a matrix into rows that begin `stride` apart.
///
/// # Safety
/// The processor must have AVX-512, and with it AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<T: Copy, U>(a: Mat<'_>, values: &[T], stride: usize, out: &mut [U], convert: impl Fn(T) -> U) {
    if a.col_stride == 1 {
        for (i, out) in out.chunks_mut(stride.max(1)).take(a.rows).enumerate() {
            let from = &values[i * a.row_stride..][..a.cols];
            out.iter_mut().zip(from).for_each(|(to, from)| *to = convert(*from));
        }
        return;
    }
    // One of a matrix's strides is 1. A few rows at a time, so that what is read of each column is a whole line of the cache.
    const LINES: usize = 16;
    for top in (0..a.rows).step_by(LINES) {
        let height = LINES.min(a.rows - top);
        for k in 0..a.cols {
            let from = &values[k * a.col_stride + top..][..height];
            for (i, value) in from.iter().enumerate() {
                out[(top + i) * stride + k] = convert(*value);
            }
        }
    }
}
