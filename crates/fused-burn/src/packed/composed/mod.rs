//! Decoding in terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice};

use super::codes::{FP4, INT8_STEP, NF4};
use super::layout::{Format, NESTED_BLOCK, PackedLayout};
use super::nested::MAP;
use crate::precision::cast;

mod bits;
mod blocks;

use bits::{bytes, floats, look_up, parts, scaled, signed, slice};

/// Values in a word of 32 bits.
const NIBBLES: usize = 8;

/// Rows `start..start + count` of a matrix whose codes come in words of 32 bits: `[count, cols]` in the layout's dtype.
pub(crate) fn rows<B: Backend>(
    codes: IntTensor<B>,
    scales: FloatTensor<B>,
    layout: PackedLayout,
    [start, count]: [usize; 2],
) -> FloatTensor<B> {
    let range = [start * layout.cols, (start + count) * layout.cols];
    let values = match layout.format {
        Format::Nf4 => nibbles::<B>(codes, scales, layout, range, &NF4),
        Format::Fp4 => nibbles::<B>(codes, scales, layout, range, &FP4),
        Format::Int8 => {
            let codes = signed::<B>(bytes::<B>(codes, range));
            let scales = B::float_slice(scales, &[Slice::from(start..start + count)]);
            let values = scaled::<B>(floats::<B>(codes), [count, layout.cols], scales);
            B::float_mul_scalar(values, INT8_STEP.into())
        }
        format => blocks::decode::<B>(format, codes, range),
    };
    cast::<B>(B::float_reshape(values, Shape::from([count, layout.cols])), layout.dtype)
}

/// The values `first..end` of blocks of 4-bit codes.
fn nibbles<B: Backend>(
    codes: IntTensor<B>,
    scales: FloatTensor<B>,
    layout: PackedLayout,
    [first, end]: [usize; 2],
    table: &[f32],
) -> FloatTensor<B> {
    let blocks = [first / layout.block, end.div_ceil(layout.block)];
    let from = blocks[0] * layout.block;
    let words = [from / NIBBLES, (blocks[1] * layout.block).min(layout.num_values()).div_ceil(NIBBLES)];
    let found = parts::<B>(slice::<B>(codes.clone(), words), &[4, 0, 12, 8, 20, 16, 28, 24], 15);
    let values = look_up::<B>(found, table);
    // Each value with its block's scale, which may be more than the values reach over.
    let scales = block_scales::<B>(codes, scales, layout, blocks);
    let all = (blocks[1] - blocks[0]) * layout.block;
    let spread = B::float_expand(
        B::float_reshape(scales, Shape::from([blocks[1] - blocks[0], 1])),
        Shape::from([blocks[1] - blocks[0], layout.block]),
    );
    let spread = B::float_reshape(spread, Shape::from([all]));
    let cut = |t| B::float_slice(t, &[Slice::from(first - from..end - from)]);
    B::float_mul(cut(values), cut(spread))
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
    let at = layout.code_bytes() + first;
    let values = look_up::<B>(bytes::<B>(codes, [at, at + end - first]), &MAP);
    let groups = [first / NESTED_BLOCK, end.div_ceil(NESTED_BLOCK)];
    let number = groups[1] - groups[0];
    let last = scales.shape()[0] - 1;
    let offset = B::float_slice(scales.clone(), &[Slice::from(last..last + 1)]);
    let outer = B::float_slice(scales, &[Slice::from(groups[0]..groups[1])]);
    let outer = B::float_expand(B::float_reshape(outer, Shape::from([number, 1])), Shape::from([number, NESTED_BLOCK]));
    let outer = B::float_reshape(outer, Shape::from([number * NESTED_BLOCK]));
    let from = first - groups[0] * NESTED_BLOCK;
    let outer = B::float_slice(outer, &[Slice::from(from..from + end - first)]);
    B::float_add(B::float_mul(values, outer), B::float_expand(offset, Shape::from([end - first])))
}
