//! Parts of integers, and what they stand for.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape, Slice, TensorData};

/// Elements `start..end` of a vector.
pub(super) fn slice<B: Backend>(words: IntTensor<B>, [start, end]: [usize; 2]) -> IntTensor<B> {
    B::int_slice(words, &[Slice::from(start..end)])
}

/// Of each word of a vector the parts that begin at the bits `shifts`, one after another.
pub(super) fn parts<B: Backend>(words: IntTensor<B>, shifts: &[i32], mask: i32) -> IntTensor<B> {
    let count = words.shape()[0];
    let all = layers::<B>(B::int_reshape(words, Shape::from([count, 1])), 1, shifts, mask);
    B::int_reshape(all, Shape::from([count * shifts.len()]))
}

/// The parts of each integer that begin at the bits `shifts`, one after another along the dimension `dim`.
pub(super) fn layers<B: Backend>(words: IntTensor<B>, dim: usize, shifts: &[i32], mask: i32) -> IntTensor<B> {
    let part = |shift: &i32| B::bitwise_right_shift_scalar(words.clone(), (*shift).into());
    B::bitwise_and_scalar(B::int_cat(shifts.iter().map(part).collect(), dim), mask.into())
}

/// The bytes `first..end` of a vector of words.
pub(super) fn bytes<B: Backend>(words: IntTensor<B>, [first, end]: [usize; 2]) -> IntTensor<B> {
    let from = first / 4;
    let all = parts::<B>(slice::<B>(words, [from, end.div_ceil(4)]), &[0, 8, 16, 24], 255);
    slice::<B>(all, [first - 4 * from, end - 4 * from])
}

/// Bytes as signed numbers.
pub(super) fn signed<B: Backend>(bytes: IntTensor<B>) -> IntTensor<B> {
    let sign = B::bitwise_and_scalar(bytes.clone(), 128.into());
    B::int_sub(bytes, B::int_mul_scalar(sign, 2.into()))
}

/// Integers as f32.
pub(super) fn floats<B: Backend>(values: IntTensor<B>) -> FloatTensor<B> {
    B::int_into_float(values, DType::F32.into())
}

/// The values of `codes`.
pub(super) fn look_up<B: Backend>(codes: IntTensor<B>, table: &[f32]) -> FloatTensor<B> {
    let shape = codes.shape();
    let count = shape.num_elements();
    let data = TensorData::new(table.to_vec(), [table.len()]).convert_dtype(DType::F32);
    let table = B::float_from_data(data, &codes.device());
    B::float_reshape(B::float_select(table, 0, B::int_reshape(codes, Shape::from([count]))), shape)
}

/// Rows of `[n, width]` values times the scale of each.
pub(super) fn scaled<B: Backend>(
    values: FloatTensor<B>,
    [n, width]: [usize; 2],
    scales: FloatTensor<B>,
) -> FloatTensor<B> {
    B::float_mul(B::float_reshape(values, Shape::from([n, width])), spread::<B>(scales, [n, width]))
}

/// Each of `n` values, `width` times.
pub(super) fn spread<B: Backend>(values: FloatTensor<B>, [n, width]: [usize; 2]) -> FloatTensor<B> {
    B::float_expand(B::float_reshape(values, Shape::from([n, 1])), Shape::from([n, width]))
}
