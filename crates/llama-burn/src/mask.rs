//! Which keys a query may see, beyond "none that comes after it".

use burn::tensor::{Bool, Device, Tensor, TensorData};

/// The attention pattern of a batch. Queries never see later columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AttentionMask {
    /// Causal alone. Right for rows of one length and, because padding on the right comes after everything that
    /// matters, for training on right-padded rows.
    #[default]
    Causal,
    /// Columns that no query may see, a row a batch entry: `true` hides. Transformers' `attention_mask`, inverted.
    Hidden(Vec<Vec<bool>>),
    /// Several texts packed in one row: a query sees its own segment alone.
    Segments(Vec<Vec<i32>>),
}

impl AttentionMask {
    /// The mask for `queries` queries, the last columns of `keys`: `[1 or batch, 1, queries, keys]`, `true` hides.
    /// `None` where one query sees everything.
    pub(crate) fn tensor(&self, queries: usize, keys: usize, device: &Device) -> Option<Tensor<4, Bool>> {
        if queries == 1 && *self == Self::Causal {
            return None;
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
                            Self::Segments(s) => s[row][key] != s[row][query],
                        }
                }));
            }
        }
        Some(Tensor::from_data(TensorData::new(hidden, [rows, 1, queries, keys]), device))
    }
}
