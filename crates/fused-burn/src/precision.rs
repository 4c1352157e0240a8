//! Which precision an operation computes in.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::DType;

/// `x` in `dtype`, without a copy where it is in it already.
pub fn cast<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) }
}

/// The dtype in which sums over many values of `dtype` are computed: f32, as Transformers does for f16 and bf16, or f64
/// for f64.
pub(crate) fn precise(dtype: DType) -> DType {
    if dtype == DType::F64 { dtype } else { DType::F32 }
}
