//! Products for processors with AVX-512, after Goto and van de Geijn (2008): the right factor is copied, a block at a
//! time, into the order in which it is read, and the target is computed in tiles that stay in registers.
//!
//! The sum of several products is one pass over the target. Factors in bf16 never exist in f32: where both are in bf16 and
//! the processor multiplies it (AVX-512 BF16), sums are in f32 and exact products go into them, at twice the rate; elsewhere
//! they are widened where they are copied.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::sync::LazyLock;

use super::mat::{Mat, Values};
use super::product::Product;

mod copy;
mod kernel;

use kernel::{COLS, DEPTH, LANES, ROWS, Segment, Tile};

/// The depth that a group of segments may have beyond a tile's depth: the inner dimension of a low-rank update goes with
/// the last block.
const EXTRA: usize = 64;
/// Rows for which a block of the left factor stays in the second-level cache.
const BLOCK_ROWS: usize = 20 * ROWS;
/// Columns of the right factor that are copied at a time.
const BLOCK_COLS: usize = 256;
/// Values in the largest tile.
const LARGEST_TILE: usize = ROWS * COLS;

/// The kinds of tiles there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tiles {
    Avx512,
    /// With products of bf16.
    Avx512Bf16,
}

impl Tiles {
    /// Those that this processor has, the fastest last.
    pub(super) fn all() -> &'static [Self] {
        static FOUND: LazyLock<Vec<Tiles>> = LazyLock::new(|| {
            // The copies of factors use what any processor with AVX-512 has besides.
            let copies = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = copies && is_x86_feature_detected!("avx512f");
            let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
            let kinds = [(avx512, Tiles::Avx512), (bf16, Tiles::Avx512Bf16)];
            kinds.into_iter().filter(|(found, _)| *found).map(|(_, tiles)| tiles).collect()
        });
        &FOUND
    }

    /// Writes the sum of `products`, all of one size, to `out`.
    ///
    /// # Safety
    /// `self` must be one of [`Self::all`]; the products' rows and columns must lie at `out`, where nothing else reads or
    /// writes meanwhile.
    pub(super) unsafe fn write(self, out: *mut f32, row_stride: usize, products: &[Product<'_>]) {
        let Some(first) = products.first() else { return };
        let (rows, cols) = (first.a.rows, first.b.cols);
        let groups = groups(products, self == Self::Avx512Bf16);
        if groups.is_empty() && !first.add {
            for row in 0..rows {
                // SAFETY: the caller's; zeros are f32.
                unsafe { out.add(row * row_stride).write_bytes(0, cols) };
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
}

thread_local! {
    static RIGHT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static LEFT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A part of a product: `depth` of its inner dimension from `from` on.
#[derive(Clone, Copy)]
struct Part<'a> {
    product: Product<'a>,
    from: usize,
    depth: usize,
    /// Whether its bf16 is multiplied as it is.
    pairs: bool,
}

impl Part<'_> {
    /// Places of four bytes along the inner dimension.
    fn places(&self) -> usize {
        if self.pairs { self.depth.div_ceil(2) } else { self.depth }
    }
}

/// The products in parts, of which those that are computed in one pass lie together. `bf16`: the processor multiplies it.
fn groups<'a>(products: &[Product<'a>], bf16: bool) -> Vec<Vec<Part<'a>>> {
    let mut groups: Vec<Vec<Part<'a>>> = Vec::new();
    let mut room = 0;
    for &product in products {
        let half = |m: Mat<'_>| m.is_half();
        let pairs = bf16 && half(product.b) && (half(product.a) || product.round) && product.alpha == 1.0;
        let inner = product.a.cols;
        let most = if pairs { 2 * DEPTH } else { DEPTH };
        // Blocks of codes stay whole where they can.
        let unit = if matches!(product.b.values, Values::Packed(..)) { 64 } else { 8 };
        let step = inner.div_ceil(inner.div_ceil(most).max(1)).next_multiple_of(unit);
        for from in (0..inner).step_by(step.max(1)) {
            let part = Part { product, from, depth: step.min(inner - from), pairs };
            if part.places() > room || groups.is_empty() {
                groups.push(Vec::new());
                room = DEPTH + EXTRA;
            }
            room -= part.places().min(room);
            if let Some(group) = groups.last_mut() {
                group.push(part);
            }
        }
    }
    groups
}

/// # Safety
/// As [`Tiles::write`].
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
    let depth: usize = group.iter().map(Part::places).sum();
    reserve(right, depth * padded);
    reserve(left, depth * BLOCK_ROWS.min(rows));
    // Right factors: copied, or read where they are.
    let mut segments = Vec::with_capacity(group.len());
    let mut edges = Vec::new();
    let mut free = &mut right[..];
    for part in group {
        let (product, depth) = (part.product, part.places());
        let b = product.b.rows(part.from, part.from + part.depth).cols(start, end);
        let (copied, rest) = free.split_at_mut(depth * padded);
        free = rest;
        let segment = |b: *const f32| Segment {
            depth,
            a: std::ptr::null(),
            a_stride: 0,
            b,
            b_stride: COLS,
            b_panel: depth * COLS,
            pairs: part.pairs,
        };
        // SAFETY: the processor has the kernel's features.
        unsafe {
            match b.values {
                // A row of a panel is four whole lines of the cache: it is read where it is.
                Values::Single(values) if b.col_stride == 1 && product.alpha == 1.0 => {
                    segments.push(Segment { b_stride: b.row_stride, b_panel: COLS, ..segment(values.as_ptr()) });
                    if whole < cols {
                        copy::right(b.cols(whole, cols), 1.0, copied);
                        edges.push(segment(copied.as_ptr()));
                    }
                    continue;
                }
                _ if part.pairs => copy::right_pairs(b, copied),
                _ => copy::right(b, product.alpha, copied),
            }
        }
        segments.push(segment(copied.as_ptr()));
        if whole < cols {
            edges.push(segment(copied[whole * depth..].as_ptr()));
        }
    }
    for top in (0..rows).step_by(BLOCK_ROWS) {
        let bottom = (top + BLOCK_ROWS).min(rows);
        let mut free = &mut left[..];
        for (i, part) in group.iter().enumerate() {
            let a = part.product.a.rows(top, bottom).cols(part.from, part.from + part.depth);
            let (a, a_stride) = match in_place(a, part) {
                Some(found) => found,
                None => {
                    let (copied, rest) = free.split_at_mut(part.places() * (bottom - top));
                    free = rest;
                    // SAFETY: the processor has the kernel's features.
                    unsafe { if part.pairs { copy::left_pairs(a, copied) } else { copy::left(a, copied) } }
                    (copied.as_ptr(), part.places())
                }
            };
            (segments[i].a, segments[i].a_stride) = (a, a_stride);
            if let Some(edge) = edges.get_mut(i) {
                (edge.a, edge.a_stride) = (a, a_stride);
            }
        }
        let tile = |row: usize| Tile {
            rows: ROWS.min(bottom - row),
            vectors: COLS / LANES,
            // SAFETY: the row lies in the target.
            out: unsafe { out.add(row * row_stride) },
            stride: row_stride,
            add,
        };
        for panel in 0..whole / COLS {
            for row in (top..bottom).step_by(ROWS) {
                let tile = tile(row);
                // SAFETY: the tile lies in the target, and the segments reach over its rows and columns.
                unsafe {
                    kernel::compute(Tile { out: tile.out.add(panel * COLS), ..tile }, &segments, [row - top, panel])
                };
            }
        }
        let rest = cols - whole;
        for row in (top..bottom).step_by(ROWS).filter(|_| rest > 0) {
            let tile = Tile { vectors: rest.div_ceil(LANES), ..tile(row) };
            // SAFETY: these columns lie in the target, and the last panel is filled up with zeros.
            unsafe {
                let target = tile.out.add(whole);
                if rest.is_multiple_of(LANES) {
                    kernel::compute(Tile { out: target, ..tile }, &edges, [row - top, 0]);
                    continue;
                }
                let mut edge = [0.0; LARGEST_TILE];
                let aside = Tile { out: edge.as_mut_ptr(), stride: COLS, add: false, ..tile };
                kernel::compute(aside, &edges, [row - top, 0]);
                for (i, values) in edge.chunks_exact(COLS).take(tile.rows).enumerate() {
                    for (j, &value) in values[..rest].iter().enumerate() {
                        let out = target.add(i * row_stride + j);
                        *out = if add { *out + value } else { value };
                    }
                }
            }
        }
    }
}

/// The first value of a left factor and how many places of four bytes its rows lie apart, if it can be read where it is.
fn in_place(a: Mat<'_>, part: &Part<'_>) -> Option<(*const f32, usize)> {
    match a.values {
        _ if a.col_stride != 1 => None,
        Values::Single(values) => (!part.pairs).then_some((values.as_ptr(), a.row_stride)),
        Values::Half(values) if part.pairs => {
            let whole = part.depth.is_multiple_of(2) && a.row_stride.is_multiple_of(2);
            let aligned = values.as_ptr().cast::<f32>().is_aligned();
            (whole && aligned).then_some((values.as_ptr().cast(), a.row_stride / 2))
        }
        Values::Half(_) | Values::Packed(..) => None,
    }
}

fn reserve(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}
