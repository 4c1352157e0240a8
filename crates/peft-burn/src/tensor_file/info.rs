//! What the head of a file says of a tensor.

use burn::tensor::DType;

/// What is known of a tensor before it is read.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub shape: Vec<usize>,
    /// As safetensors names it, such as `BF16`.
    pub dtype: String,
    /// `None` where Burn has no counterpart.
    pub in_burn: Option<DType>,
    pub bytes: usize,
}
