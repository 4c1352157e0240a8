//! Which keys a query may see, beyond "none that comes after it".

use std::collections::HashSet;
use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::pattern::{Pattern, Patterns};

/// The attention pattern of a batch. Queries never see later columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttentionMask {
    /// Causal alone. Right for rows of one length and, because padding on the right comes after everything that
    /// matters, for training on right-padded rows.
    #[default]
    Causal,
    /// Columns that no query may see, a row a batch entry: `true` hides. Transformers' `attention_mask`, inverted.
    Hidden(Vec<Vec<bool>>),
    /// Several texts packed in one row: a query sees its own segment alone. A token of segment −1 is padding: before a text it
    /// sees nothing at all, as in Transformers, and after the last one it does not matter.
    Segments(Vec<Vec<i32>>),
}

/// The columns that a forward pass sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    /// How many of them are queries, the last ones.
    pub queries: usize,
    /// The position of each, a row for the whole batch or one each.
    pub positions: &'a [Vec<usize>],
    /// The first that windowed layers still hold.
    pub first: usize,
}

impl Columns<'_> {
    fn keys(&self) -> usize {
        self.positions.first().map_or(0, Vec::len)
    }

    fn position(&self, row: usize, column: usize) -> usize {
        self.positions.get(row).or(self.positions.first()).and_then(|row| row.get(column)).copied().unwrap_or(0)
    }
}

impl AttentionMask {
    /// The patterns of a pass over `columns`, for layers with and without the window `window`.
    pub(crate) fn patterns(&self, columns: Columns<'_>, window: Option<usize>, device: &Device) -> Patterns {
        let whole = self.pattern(columns, None, device);
        let windowed = match &whole {
            // The fused operation knows windows.
            Pattern::Causal(_) => None,
            Pattern::Masked(_) => window.map(|window| self.pattern(columns, Some(window), device)),
        };
        Patterns { whole, windowed }
    }

    fn pattern(&self, columns: Columns<'_>, window: Option<usize>, device: &Device) -> Pattern {
        let all_new = columns.queries == columns.keys();
        match self {
            Self::Causal if all_new => Pattern::Causal(None),
            Self::Segments(rows) if all_new => match starts(rows) {
                Some(starts) => Pattern::Causal(Some(Arc::new(starts.into()))),
                None => Pattern::Masked(self.tensor(columns, window, device)),
            },
            _ => Pattern::Masked(self.tensor(columns, window, device)),
        }
    }

    /// The mask, `[1 or batch, 1, queries, keys]`, `true` hides; with a window of the columns from `first` on. One value
    /// where one query sees everything.
    fn tensor(&self, columns: Columns<'_>, window: Option<usize>, device: &Device) -> Tensor<4, Bool> {
        let (queries, keys) = (columns.queries, columns.keys());
        let one = window.is_none() || columns.positions.len() == 1;
        let first = if window.is_some() { columns.first } else { 0 };
        if queries == 1 && *self == Self::Causal && one {
            // Of one row's columns, those outside of the window are gone.
            return Tensor::from_data(TensorData::new(vec![false], [1; 4]), device);
        }
        let rows = match self {
            Self::Causal => 1,
            Self::Hidden(rows) => rows.len(),
            Self::Segments(rows) => rows.len(),
        };
        let rows = if window.is_some() { rows.max(columns.positions.len()) } else { rows };
        let mut hidden = Vec::with_capacity(rows * queries * (keys - first));
        for row in 0..rows {
            for query in keys - queries..keys {
                let at = columns.position(row, query);
                hidden.extend((first..keys).map(|key| {
                    key > query
                        || window.is_some_and(|window| at >= columns.position(row, key) + window)
                        || match self {
                            Self::Causal => false,
                            Self::Hidden(h) => h[row].get(key).copied().unwrap_or(false),
                            Self::Segments(s) => s[row][key] != s[row][query] || s[row][query] < 0,
                        }
                }));
            }
        }
        Tensor::from_data(TensorData::new(hidden, [rows, 1, queries, keys - first]), device)
    }
}

/// The first column of each column's segment; `None` if a segment lies in pieces, or padding before a text.
fn starts(rows: &[Vec<i32>]) -> Option<Vec<usize>> {
    let mut all = Vec::with_capacity(rows.iter().map(Vec::len).sum());
    for row in rows {
        let mut seen = HashSet::new();
        let mut start = 0;
        for (column, id) in row.iter().enumerate() {
            if column == 0 || row[column - 1] != *id {
                start = column;
                if !seen.insert(id) || (column > 0 && row[column - 1] < 0) {
                    return None;
                }
            }
            all.push(start);
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_begin_where_their_id_does() {
        assert_eq!(starts(&[vec![0, 0, 1, 1, 1], vec![3, 4, 4, -1, -1]]), Some(vec![0, 0, 2, 2, 2, 0, 1, 1, 3, 3]));
        assert_eq!(starts(&[vec![0, 1, 0]]), None);
        assert_eq!(starts(&[vec![-1, 0, 0]]), None);
    }
}
