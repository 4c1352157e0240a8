//! Slices and tensors of the CPU backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};

use super::matrix::Mat;

/// A tensor of the CPU backend.
pub type FlexTensor = FloatTensor<Flex>;

/// Whether all of `tensors` hold f32, which is what the CPU versions are written for.
pub fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32)
}

/// The sizes of a matrix.
pub fn dims2(tensor: &FlexTensor) -> [usize; 2] {
    let shape = tensor.shape();
    [shape[0], shape[1]]
}

/// A tensor from its values in row-major order.
pub fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// The same values in row-major order, copied only if they are not so already.
pub fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().contiguous_offsets().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The values of a [`contiguous`] tensor of f32.
pub fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().unwrap_or_default()
}

/// The same matrix, copied only if neither its rows nor its columns lie one after another: a transposed view does not.
pub fn dense(tensor: FlexTensor) -> FlexTensor {
    if is_transposed(&tensor) { tensor } else { contiguous(tensor) }
}

fn is_transposed(tensor: &FlexTensor) -> bool {
    let [rows, _] = dims2(tensor);
    tensor.layout().strides() == [1, rows as isize]
}

/// A [`dense`] matrix of f32, where it is.
pub fn mat(tensor: &FlexTensor) -> Mat<'_> {
    let [rows, cols] = dims2(tensor);
    if tensor.layout().contiguous_offsets().is_some() {
        return Mat::new(values(tensor), rows, cols);
    }
    let start = tensor.layout().start_offset();
    Mat::new(tensor.storage::<f32>().get(start..).unwrap_or_default(), cols, rows).t()
}

/// A tensor whose values can be written through [`values_mut`]: `tensor` itself if nothing else holds its memory, else a
/// copy.
pub fn owned(tensor: FlexTensor) -> FlexTensor {
    let len = tensor.shape().num_elements();
    let whole = tensor.layout().contiguous_offsets() == Some((0, len)) && tensor.bytes().len() == len * 4;
    if whole && tensor.is_unique() {
        return tensor;
    }
    let shape = tensor.shape();
    let tensor = contiguous(tensor);
    self::tensor(values(&tensor).to_vec(), shape)
}

/// The values of an [`owned`] tensor of f32.
pub fn values_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    tensor.storage_mut::<f32>()
}

/// Zeros, or whatever memory holds: a buffer of `len` values that the caller overwrites.
pub fn buffer(len: usize) -> Vec<f32> {
    vec![0.0; len]
}
