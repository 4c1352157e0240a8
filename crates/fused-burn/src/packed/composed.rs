//! Decoding in terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape, Slice, TensorData};

use super::codes::{FP4, NF4};
use super::layout::{Format, NESTED_BLOCK, PackedLayout};
use super::nested::MAP;
use crate::precision::cast;

/// Values in a word of 32 bits.
const NIBBLES: usize = 8;

/// Rows `start..start + count` of a matrix whose codes come in words of 32 bits: `[count, cols]` in the layout's dtype.
pub(crate) fn rows<B: Backend>(
    codes: IntTensor<B>,
    scales: FloatTensor<B>,
    layout: PackedLayout,
    [start, count]: [usize; 2],
) -> FloatTensor<B> {
    let table = match layout.format {
        Format::Nf4 => NF4,
        Format::Fp4 => FP4,
    };
    let (first, end) = (start * layout.cols, (start + count) * layout.cols);
    let blocks = [first / layout.block, end.div_ceil(layout.block)];
    let from = blocks[0] * layout.block;
    let words = [from / NIBBLES, (blocks[1] * layout.block).min(layout.num_values()).div_ceil(NIBBLES)];
    let parts = parts::<B>(slice::<B>(codes.clone(), words), &[4, 0, 12, 8, 20, 16, 28, 24], 15);
    let values = look_up::<B>(parts, &table);
    // Each value with its block's scale, which may be more than the values reach over.
    let scales = block_scales::<B>(codes, scales, layout, blocks);
    let all = (blocks[1] - blocks[0]) * layout.block;
    let spread = B::float_expand(
        B::float_reshape(scales, Shape::from([blocks[1] - blocks[0], 1])),
        Shape::from([blocks[1] - blocks[0], layout.block]),
    );
    let spread = B::float_reshape(spread, Shape::from([all]));
    let range = [first - from, end - from];
    let cut = |t| B::float_slice(t, &[Slice::from(range[0]..range[1])]);
    let values = B::float_mul(cut(values), cut(spread));
    cast::<B>(B::float_reshape(values, Shape::from([count, layout.cols])), layout.dtype)
}

/// The scales of `blocks`.
fn block_scales<B: Backend>(
    codes: IntTensor<B>,
    scales: FloatTensor<B>,
    layout: PackedLayout,
    [first, end]: [usize; 2],
) -> FloatTensor<B> {
    if !layout.nested {
        return B::float_slice(scales, &[Slice::from(first..end)]);
    }
    let at = layout.num_values().div_ceil(2) + first;
    let words = [at / 4, (at + end - first).div_ceil(4)];
    let bytes = look_up::<B>(parts::<B>(slice::<B>(codes, words), &[0, 8, 16, 24], 255), &MAP);
    let bytes = B::float_slice(bytes, &[Slice::from(at % 4..at % 4 + end - first)]);
    let groups = [first / NESTED_BLOCK, end.div_ceil(NESTED_BLOCK)];
    let number = groups[1] - groups[0];
    let last = scales.shape()[0] - 1;
    let offset = B::float_slice(scales.clone(), &[Slice::from(last..last + 1)]);
    let outer = B::float_slice(scales, &[Slice::from(groups[0]..groups[1])]);
    let outer = B::float_expand(B::float_reshape(outer, Shape::from([number, 1])), Shape::from([number, NESTED_BLOCK]));
    let outer = B::float_reshape(outer, Shape::from([number * NESTED_BLOCK]));
    let from = first - groups[0] * NESTED_BLOCK;
    let outer = B::float_slice(outer, &[Slice::from(from..from + end - first)]);
    B::float_add(B::float_mul(bytes, outer), B::float_expand(offset, Shape::from([end - first])))
}

fn slice<B: Backend>(words: IntTensor<B>, [start, end]: [usize; 2]) -> IntTensor<B> {
    B::int_slice(words, &[Slice::from(start..end)])
}

/// Of each word the parts that begin at the bits `shifts`, one after another.
fn parts<B: Backend>(words: IntTensor<B>, shifts: &[i32], mask: i32) -> IntTensor<B> {
    let count = words.shape()[0];
    let words = B::int_reshape(words, Shape::from([count, 1]));
    let part = |shift: &i32| B::bitwise_right_shift_scalar(words.clone(), (*shift).into());
    let all = B::int_cat(shifts.iter().map(part).collect(), 1);
    B::int_reshape(B::bitwise_and_scalar(all, mask.into()), Shape::from([count * shifts.len()]))
}

fn look_up<B: Backend>(codes: IntTensor<B>, table: &[f32]) -> FloatTensor<B> {
    let data = TensorData::new(table.to_vec(), [table.len()]).convert_dtype(DType::F32);
    B::float_select(B::float_from_data(data, &codes.device()), 0, codes)
}
