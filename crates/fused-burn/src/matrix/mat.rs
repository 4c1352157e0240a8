//! A matrix that lies in a slice, to be read or written.

use std::borrow::Cow;

use burn::tensor::DType;
use half::bf16;

use crate::packed::PackedView;
use crate::simd::widen;

/// The values of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    Single(&'a [f32]),
    Half(&'a [bf16]),
    /// Codes, from a position of the flattened matrix on.
    Packed(PackedView<'a>, usize),
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

    /// A packed matrix. It is decoded where it is read.
    ///
    /// # Panics
    /// When the codes or the scales are not as many as its layout says.
    pub fn packed(view: PackedView<'a>) -> Self {
        let layout = view.layout;
        assert_eq!(
            (view.codes.len(), view.scales.len()),
            (layout.num_bytes(), layout.num_scales()),
            "codes and scales"
        );
        let values = Values::Packed(view, 0);
        Self { values, rows: layout.rows, cols: layout.cols, row_stride: layout.cols, col_stride: 1 }
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
            Values::Packed(view, start) => Values::Packed(view, start + at),
        };
        Self { values, rows: end - start, ..self }
    }

    /// Columns `start..end`.
    pub fn cols(self, start: usize, end: usize) -> Self {
        self.t().rows(start, end).t()
    }

    /// Whether its values are those of bf16.
    pub(super) fn is_half(&self) -> bool {
        match self.values {
            Values::Single(_) => false,
            Values::Half(_) => true,
            Values::Packed(view, _) => view.layout.dtype == DType::BF16,
        }
    }

    /// How many values lie from the first to the last.
    fn reach(&self) -> usize {
        match (self.rows, self.cols) {
            (0, _) | (_, 0) => 0,
            (rows, cols) => (rows - 1) * self.row_stride + (cols - 1) * self.col_stride + 1,
        }
    }

    /// The values in f32, from the first to the last that the matrix reaches over.
    pub(super) fn single(&self) -> Cow<'a, [f32]> {
        match self.values {
            Values::Single(values) => Cow::Borrowed(values),
            Values::Half(values) => Cow::Owned(values[..self.reach()].iter().map(|&v| widen(v)).collect()),
            Values::Packed(view, start) => {
                let mut values = vec![0.0; self.reach()];
                view.decode(start, &mut values);
                Cow::Owned(values)
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
