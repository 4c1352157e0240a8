//! Tensors in host memory.

use burn::tensor::{DType, Tensor, TensorData};

/// The values of a tensor in f32, row after row.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data: TensorData = tensor.into_data();
    match data.dtype() {
        DType::F32 => data.try_into_vec::<f32>().unwrap_or_default(),
        _ => data.convert_dtype(DType::F32).try_into_vec::<f32>().unwrap_or_default(),
    }
}
