//! Slices and tensors of the CPU backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};
use half::bf16;
use rayon::prelude::*;

use super::matrix::Mat;
use super::simd::{narrow, vectorized, widen};

/// A tensor of the CPU backend.
pub type FlexTensor = FloatTensor<Flex>;

/// Whether all of `tensors` hold f32, which is what the CPU versions are written for.
pub fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32)
}

/// Whether all of `tensors` hold bf16. Their values are worked on as f32 (see [`widened`]): no vector instruction adds or
/// multiplies bf16, and converting reads each value once where a product reads it many times.
pub fn all_bf16(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::BF16)
}

/// Whether `x` and `weight` hold f32 both, or bf16 both, which is what the CPU versions of projections are written for.
pub fn is_common(x: &FlexTensor, weight: &FlexTensor) -> bool {
    all_f32(&[x, weight]) || all_bf16(&[x, weight])
}

/// `tensor`, of f32 or bf16, in `dtype`, one of the two.
pub fn as_common(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    if dtype == DType::BF16 { narrowed(tensor) } else { tensor }
}

/// A tensor of bf16 in f32, and one of f32 as it is. A transposed view stays one.
pub fn widened(tensor: FlexTensor) -> FlexTensor {
    if tensor.dtype() != DType::BF16 {
        return tensor;
    }
    let in_order = tensor.layout().contiguous_offsets().is_some();
    if !in_order && tensor.shape().num_dims() == 2 && is_transposed(&tensor) {
        return widened(tensor.transpose(0, 1)).transpose(0, 1);
    }
    let tensor = contiguous(tensor);
    let mut out = buffer(tensor.shape().num_elements());
    widen_into(halves(&tensor), &mut out);
    self::tensor(out, tensor.shape())
}

/// A tensor of f32 rounded to bf16, and one of bf16 as it is.
pub fn narrowed(tensor: FlexTensor) -> FlexTensor {
    if tensor.dtype() == DType::BF16 {
        return tensor;
    }
    let tensor = contiguous(tensor);
    let mut out = vec![bf16::ZERO; tensor.shape().num_elements()];
    out.par_chunks_mut(PART).zip(values(&tensor).par_chunks(PART)).for_each(|(out, values)| {
        vectorized(
            #[inline(always)]
            || {
                for (o, v) in out.iter_mut().zip(values) {
                    *o = narrow(*v);
                }
            },
        );
    });
    FlexTensor::from_data(TensorData::new(out, tensor.shape()))
}

/// The values of a [`contiguous`] tensor of bf16.
fn halves(tensor: &FlexTensor) -> &[bf16] {
    tensor.as_slice::<bf16>().unwrap_or_default()
}

/// Writes `values` as f32 to `out`, on all threads.
fn widen_into(values: &[bf16], out: &mut [f32]) {
    out.par_chunks_mut(PART).zip(values.par_chunks(PART)).for_each(|(out, values)| {
        vectorized(
            #[inline(always)]
            || {
                for (o, v) in out.iter_mut().zip(values) {
                    *o = widen(*v);
                }
            },
        );
    });
}

/// Values that a thread converts at a time.
const PART: usize = 1 << 16;

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

/// A [`dense`] matrix of f32 or bf16, where it is.
pub fn mat(tensor: &FlexTensor) -> Mat<'_> {
    let [rows, cols] = dims2(tensor);
    let (in_order, start) = (tensor.layout().contiguous_offsets().is_some(), tensor.layout().start_offset());
    let (rows, cols) = if in_order { (rows, cols) } else { (cols, rows) };
    let stored = if tensor.dtype() == DType::BF16 {
        Mat::half(tensor.storage::<bf16>().get(start..).unwrap_or_default(), rows, cols)
    } else {
        Mat::new(tensor.storage::<f32>().get(start..).unwrap_or_default(), rows, cols)
    };
    if in_order { stored } else { stored.t() }
}

/// The values of a [`contiguous`] tensor of f32 or bf16 as rows of `width`.
pub fn rows(tensor: &FlexTensor, width: usize) -> Mat<'_> {
    let rows = tensor.shape().num_elements() / width.max(1);
    if tensor.dtype() == DType::BF16 {
        Mat::half(halves(tensor), rows, width)
    } else {
        Mat::new(values(tensor), rows, width)
    }
}

/// The same `[a, b, n, width]`, copied only if some `[n, width]` of it is not one stretch of memory: that of the first `n`
/// columns of a longer cache is.
pub fn in_blocks(tensor: FlexTensor) -> FlexTensor {
    let width = tensor.shape()[3] as isize;
    let in_place = matches!(tensor.layout().strides(), [a, b, row, 1] if *a >= 0 && *b >= 0 && *row == width);
    if in_place { tensor } else { contiguous(tensor) }
}

/// The matrix `[n, width]` at `[a, b]` of a tensor of f32 or bf16 [`in_blocks`].
pub fn block(tensor: &FlexTensor, [a, b]: [usize; 2]) -> Mat<'_> {
    let (shape, layout) = (tensor.shape(), tensor.layout());
    let offset = |dim: usize, at: usize| at * layout.strides()[dim].unsigned_abs();
    let start = layout.start_offset() + offset(0, a) + offset(1, b);
    if tensor.dtype() == DType::BF16 {
        Mat::half(tensor.storage::<bf16>().get(start..).unwrap_or_default(), shape[2], shape[3])
    } else {
        Mat::new(tensor.storage::<f32>().get(start..).unwrap_or_default(), shape[2], shape[3])
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_widened_exactly_and_rounded_to_nearest_even() {
        let edges = [0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY, 1e-45];
        let ties = (0..1000).map(|i| f32::from_bits(0x3f80_0000 + i * 0x4000));
        let values: Vec<f32> =
            edges.into_iter().chain(ties).chain((0..70_000).map(|i| (i as f32).sin() * 100.0)).collect();
        let rounded: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
        let half = narrowed(tensor(values.clone(), [values.len()]));
        assert_eq!(halves(&half), rounded);
        let wide: Vec<f32> = rounded.iter().map(|v| v.to_f32()).collect();
        assert_eq!(self::values(&widened(half)), wide);
        assert!(narrow(f32::NAN).is_nan() && narrow(f32::from_bits(0x7f80_0001)).is_nan() && widen(bf16::NAN).is_nan());
    }

    #[test]
    fn a_transposed_view_is_widened_in_place() {
        let half = narrowed(tensor((0..6).map(|i| i as f32).collect(), [2, 3]));
        let view = widened(half.transpose(0, 1));
        assert_eq!((dims2(&view), view.layout().strides()), ([3, 2], &[1, 3][..]));
        assert_eq!(values(&contiguous(view)), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }
}
