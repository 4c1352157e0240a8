//! The frozen base of a linear layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// Weight `[out, in]`, as Hugging Face stores it, and bias `[out]`.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}
