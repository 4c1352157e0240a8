//! The head of a file: names, dtypes and shapes of tensors.

use burn::tensor::DType;

/// A tensor's name, dtype and shape, known before it is read.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub shape: Vec<usize>,
    /// As safetensors names it, such as `BF16`.
    pub dtype: String,
    /// `None` where Burn has no counterpart.
    pub in_burn: Option<DType>,
    pub bytes: usize,
}
