//! Which keys a query may see, beyond "none that comes after it".

use std::collections::HashSet;
use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::pattern::Pattern;

/// The attention pattern of a batch. Queries never see later columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

impl AttentionMask {
    /// The attention of `queries` queries, the last columns of `keys`.
    pub(crate) fn pattern(&self, queries: usize, keys: usize, device: &Device) -> Pattern {
        match self {
            Self::Causal if queries == keys => Pattern::Causal(None),
            Self::Segments(rows) if queries == keys => match starts(rows) {
                Some(starts) => Pattern::Causal(Some(Arc::new(starts))),
                None => Pattern::Masked(self.tensor(queries, keys, device)),
            },
            _ => Pattern::Masked(self.tensor(queries, keys, device)),
        }
    }

    /// The mask for `queries` queries, the last columns of `keys`: `[1 or batch, 1, queries, keys]`, `true` hides.
    /// One value where one query sees everything.
    fn tensor(&self, queries: usize, keys: usize, device: &Device) -> Tensor<4, Bool> {
        if queries == 1 && *self == Self::Causal {
            return Tensor::from_data(TensorData::new(vec![false], [1; 4]), device);
        }
        let rows = match self {
            Self::Causal => 1,
            Self::Hidden(rows) => rows.len(),
            Self::Segments(rows) => rows.len(),
        };
        let mut hidden = Vec::with_capacity(rows * queries * keys);
        for row in 0..rows {
            for query in keys - queries..keys {
                hidden.extend((0..keys).map(|key| {
                    key > query
                        || match self {
                            Self::Causal => false,
                            Self::Hidden(h) => h[row].get(key).copied().unwrap_or(false),
                            Self::Segments(s) => s[row][key] != s[row][query] || s[row][query] < 0,
                        }
                }));
            }
        }
        Tensor::from_data(TensorData::new(hidden, [rows, 1, queries, keys]), device)
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
