//! The innermost loops: a tile of the target stays in registers while the factors pass by.
//!
//! Tiles are six rows high, so that the left factor can be read where it is: the addresses of its rows fit into registers too.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

/// A part of a product along its inner dimension, ready to be read. What lies in a place of four bytes is an f32, or two
/// bf16 that are neighbours along the inner dimension (`pairs`).
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// Places along the inner dimension.
    pub depth: usize,
    /// The left factor, row by row.
    pub a: *const f32,
    pub a_stride: usize,
    /// A panel of the right factor, as wide as a tile, row by row.
    pub b: *const f32,
    pub b_stride: usize,
    /// From one panel to the next.
    pub b_panel: usize,
    pub pairs: bool,
}

/// A tile of the target: where it begins, and whether its values are added to.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub rows: usize,
    /// Columns, in vectors.
    pub vectors: usize,
    pub out: *mut f32,
    pub stride: usize,
    pub add: bool,
}

/// Rows of a tile at most.
pub(super) const ROWS: usize = 6;

/// Columns of a vector.
pub(super) const LANES: usize = 16;
/// Columns of a tile at most.
pub(super) const COLS: usize = 64;
/// How many places of the inner dimension are taken at a time: a panel of the right factor then stays in the nearest caches.
pub(super) const DEPTH: usize = 128;

/// Calls the function for a tile of the size that is known when the program runs.
macro_rules! by_size {
    ($tile:expr, $function:ident, $arguments:tt, [$($rows:literal)*], $vectors:tt) => {
        match $tile.rows {
            $($rows => by_size!(@ $rows, $tile, $function, $arguments, $vectors),)*
            _ => unreachable!("no tile is that high"),
        }
    };
    (@ $rows:literal, $tile:expr, $function:ident, $arguments:tt, [$($vectors:literal)*]) => {
        match $tile.vectors {
            $($vectors => $function::<$rows, $vectors> $arguments,)*
            _ => unreachable!("no tile is that wide"),
        }
    };
}

/// Computes a tile: the sum of `segments` from the row and panel `at` on.
///
/// # Safety
/// The processor must have AVX-512, and AVX-512 BF16 where a segment has pairs; the segments must reach over the tile's rows
/// and vectors, which must lie at `out`, where nothing else reads or writes meanwhile.
pub(super) unsafe fn compute(tile: Tile, segments: &[Segment], at: [usize; 2]) {
    // SAFETY: the caller's.
    unsafe {
        if segments.iter().any(|s| s.pairs) {
            by_size!(tile, tile_bf16, (tile, segments, at), [1 2 3 4 5 6], [1 2 3 4])
        } else {
            by_size!(tile, tile_single, (tile, segments, at), [1 2 3 4 5 6], [1 2 3 4])
        }
    }
}

/// Calls `$step` for each place of a segment, of which it writes out four one after another.
macro_rules! steps {
    ($step:ident, $sums:expr, $segment:expr, $at:expr) => {{
        const UNROLLED: usize = 4;
        let (s, [row, panel]) = ($segment, $at);
        let (mut a, mut b) = (s.a.add(row * s.a_stride), s.b.add(panel * s.b_panel));
        for _ in 0..s.depth / UNROLLED {
            for k in 0..UNROLLED {
                $step($sums, a.add(k), s.a_stride, b.add(k * s.b_stride));
            }
            // Where nothing is left, this may lie beyond what the factor reaches over.
            (a, b) = (a.wrapping_add(UNROLLED), b.wrapping_add(UNROLLED * s.b_stride));
        }
        for k in 0..s.depth % UNROLLED {
            $step($sums, a.add(k), s.a_stride, b.add(k * s.b_stride));
        }
    }};
}

/// # Safety
/// As [`compute`], with segments of f32.
#[target_feature(enable = "avx512f")]
unsafe fn tile_single<const R: usize, const V: usize>(tile: Tile, segments: &[Segment], at: [usize; 2]) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: the segments reach over these rows and this panel, and `out` over the tile.
    unsafe {
        for segment in segments {
            steps!(step_single, &mut sums, segment, at);
        }
        store(&sums, tile);
    }
}

/// # Safety
/// As [`compute`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_bf16<const R: usize, const V: usize>(tile: Tile, segments: &[Segment], at: [usize; 2]) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: the segments reach over these rows and this panel, and `out` over the tile.
    unsafe {
        for segment in segments {
            if segment.pairs {
                steps!(step_bf16, &mut sums, segment, at);
            } else {
                steps!(step_single, &mut sums, segment, at);
            }
        }
        store(&sums, tile);
    }
}

/// Adds a column of the left factor times a row of the right one.
///
/// # Safety
/// `a` must reach over `R` rows, and `b` over `V` vectors.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn step_single<const R: usize, const V: usize>(
    sums: &mut [[__m512; V]; R],
    a: *const f32,
    a_stride: usize,
    b: *const f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let right: [__m512; V] = std::array::from_fn(|j| _mm512_loadu_ps(b.add(j * LANES)));
        for (i, sums) in sums.iter_mut().enumerate() {
            let left = _mm512_set1_ps(*a.add(i * a_stride));
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = _mm512_fmadd_ps(left, right, *sum);
            }
        }
    }
}

/// Adds two columns of the left factor times two rows of the right one.
///
/// # Safety
/// As [`step_single`], of pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn step_bf16<const R: usize, const V: usize>(
    sums: &mut [[__m512; V]; R],
    a: *const f32,
    a_stride: usize,
    b: *const f32,
) {
    // SAFETY: the caller's; vectors of one size are the same bits.
    unsafe {
        let halves = |vector: __m512| std::mem::transmute::<__m512, __m512bh>(vector);
        let right: [__m512bh; V] = std::array::from_fn(|j| halves(_mm512_loadu_ps(b.add(j * LANES))));
        for (i, sums) in sums.iter_mut().enumerate() {
            let left = halves(_mm512_set1_ps(*a.add(i * a_stride)));
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = _mm512_dpbf16_ps(*sum, left, right);
            }
        }
    }
}

/// # Safety
/// `out` must reach over the tile.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const R: usize, const V: usize>(sums: &[[__m512; V]; R], tile: Tile) {
    for (i, sums) in sums.iter().enumerate() {
        for (j, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's.
            unsafe {
                let out = tile.out.add(i * tile.stride + j * LANES);
                let sum = if tile.add { _mm512_add_ps(sum, _mm512_loadu_ps(out)) } else { sum };
                _mm512_storeu_ps(out, sum);
            }
        }
    }
}
