//! A matrix that lies in a slice, to be read or written.

use std::borrow::Cow;

use half::bf16;

use crate::simd::widen;

/// The values of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    Single(&'a [f32]),
    Half(&'a [bf16]),
}

/// A matrix that lies in a slice. Factors of a product may be in bf16, which is widened where it is read. Where both are, and
/// the processor multiplies bf16, products of it are exact and summed in f32, and values below f32's normal range count as
/// zero.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    pub(super) values: Values<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
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
    pub(super) fn single(&self) -> Cow<'a, [f32]> {
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
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
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
