//! In terms of ordinary tensor operations, for every backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice};

pub(super) fn rope<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    width: usize,
    inverse: bool,
) -> FloatTensor<B> {
    let (shape, tables) = (x.shape(), cos.shape());
    let (rows, half) = (tables[0], tables[1]);
    let (repeats, heads) = (shape[0] / rows.max(1), shape[1] / width.max(1));
    let table = |t| B::float_reshape(t, Shape::from([1, rows, 1, half]));
    let (cos, sin) = (table(cos), table(sin));
    let sin = if inverse { B::float_neg(sin) } else { sin };
    let x = B::float_reshape(x, Shape::from([repeats, rows, heads, width]));
    let part = |start: usize, end: usize| {
        let slices = [0..repeats, 0..rows, 0..heads, start..end].map(Slice::from);
        B::float_slice(x.clone(), &slices)
    };
    let (first, second) = (part(0, half), part(half, 2 * half));
    let mut parts = vec![
        B::float_sub(B::float_mul(first.clone(), cos.clone()), B::float_mul(second.clone(), sin.clone())),
        B::float_add(B::float_mul(second, cos), B::float_mul(first, sin)),
    ];
    parts.extend((width > 2 * half).then(|| part(2 * half, width)));
    B::float_reshape(B::float_cat(parts, 3), shape)
}
