//! A block of queries and its tiles of keys: which rows and columns they are, and where they lie in memory.

use std::ops::Range;

use super::super::shape::AttentionShape;
use crate::matrix::{Mat, MatMut, Product, compute};

/// Queries of a block.
pub(super) const BLOCK: usize = 64;
/// Scores of a tile: two of such size lie in a second-level cache.
const TILE_SCORES: usize = 24 << 10;

/// One block: queries `first..end` of row `row`, and the columns `keys..end` that they see.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) shape: &'a AttentionShape,
    row: usize,
    first: usize,
    end: usize,
    keys: usize,
}

/// Columns of a row of tokens.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) start: usize,
    end: usize,
}

impl Tile {
    pub(super) fn width(self) -> usize {
        self.end - self.start
    }
}

impl<'a> Block<'a> {
    pub(super) fn new(shape: &'a AttentionShape, row: usize, first: usize) -> Self {
        let end = (first + BLOCK).min(shape.seq);
        Self { shape, row, first, end, keys: shape.sees(row, first).start }
    }

    pub(super) fn queries(&self) -> usize {
        self.end - self.first
    }

    /// Queries times the heads that share a key head.
    pub(super) fn rows(&self) -> usize {
        self.queries() * self.shape.group()
    }

    pub(super) fn tiles(&self) -> impl Iterator<Item = Tile> + use<> {
        let (end, width) = (self.end, (TILE_SCORES / self.rows()).next_multiple_of(16).max(BLOCK));
        (self.keys..end).step_by(width).map(move |start| Tile { start, end: (start + width).min(end) })
    }

    /// The columns of `tile` that the query of the block's row `row` sees, counted from the tile's first.
    pub(super) fn visible(&self, row: usize, tile: Tile) -> Range<usize> {
        let sees = self.shape.sees(self.row, self.first + row % self.queries());
        let start = sees.start.clamp(tile.start, tile.end);
        start - tile.start..sees.end.clamp(start, tile.end) - tile.start
    }

    /// Keys or values of one head, `[width, d]`.
    pub(super) fn seen<'m>(&self, values: &'m [f32], head: usize, tile: Tile) -> Mat<'m> {
        let s = self.shape;
        let stride = s.kv_heads * s.head_dim;
        let at = (self.row * s.seq + tile.start) * stride + head * s.head_dim;
        Mat::strided(&values[at..], tile.width(), s.head_dim, stride)
    }

    /// Where the block's rows for key head `head` lie in `[batch·seq, heads]`.
    pub(super) fn places(&self, head: usize) -> impl Iterator<Item = usize> + use<'a> {
        let (s, first, end, row) = (self.shape, self.first, self.end, self.row);
        let heads = head * s.group()..(head + 1) * s.group();
        heads.flat_map(move |h| (first..end).map(move |t| (row * s.seq + t) * s.heads + h))
    }

    /// Copies the block's queries (or what has their shape) for one key head, times `scale`: `[rows, d]`, head by head.
    pub(super) fn gather(&self, values: &[f32], head: usize, scale: f32) -> Vec<f32> {
        let d = self.shape.head_dim;
        let mut out = Vec::with_capacity(self.rows() * d);
        for place in self.places(head) {
            out.extend(values[place * d..][..d].iter().map(|x| x * scale));
        }
        out
    }

    /// Undoes [`Self::gather`] into the block's own part of a buffer, each row times its factor.
    pub(super) fn scatter(&self, values: &[f32], out: &mut [f32], head: usize, factor: impl Fn(usize) -> f32) {
        let (d, before) = (self.shape.head_dim, self.before());
        for (row, (place, values)) in self.places(head).zip(values.chunks_exact(d)).enumerate() {
            let factor = factor(row);
            let out = &mut out[(place - before) * d..][..d];
            out.iter_mut().zip(values).for_each(|(o, v)| *o = v * factor);
        }
    }

    /// The rows of `[batch·seq, heads]` before the block's.
    pub(super) fn before(&self) -> usize {
        (self.row * self.shape.seq + self.first) * self.shape.heads
    }

    /// `rows · seenᵀ` for rows `[rows, d]`: `[rows, width]`.
    pub(super) fn against(&self, rows: &[f32], seen: Mat<'_>, tile: Tile, out: &mut [f32]) {
        let (n, width) = (self.rows(), tile.width());
        let product = Product::of(Mat::new(rows, n, self.shape.head_dim), seen.t());
        compute(MatMut::new(out, n, width), &[product]);
    }
}
