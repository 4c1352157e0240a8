//! The frozen base of a linear layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::layers::base_param::BaseParam;

/// Weight `[out, in]`, as Hugging Face stores it, and bias `[out]`.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[out, in]`.
    pub weight: BaseParam,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}
