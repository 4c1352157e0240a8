//! On the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

use super::activation::{Activation, Curve, GeluTanh, Silu};
use super::{SwigluOps, composed};
use crate::flex::{self, all_bf16, all_f32, contiguous, dims2, narrowed, owned, values, values_mut, widened};
use crate::rows::{each_row, each_row2, each_row2_summing};

/// Any length serves: the rows are not rows of anything.
const WIDTH: usize = 1 << 10;

/// `$call` with `$curve` the curve of an activation: each is compiled apart.
macro_rules! by_curve {
    ($act:expr, |$curve:ident| $call:expr) => {
        match $act {
            Activation::Silu => {
                let $curve = Silu;
                $call
            }
            Activation::GeluTanh => {
                let $curve = GeluTanh;
                $call
            }
        }
    };
}

impl SwigluOps for Flex {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>, act: Activation) -> FloatTensor<Self> {
        if all_bf16(&[&gate, &up]) {
            return narrowed(Self::swiglu(widened(gate), widened(up), act));
        }
        if !all_f32(&[&gate, &up]) {
            return composed::swiglu::<Self>(gate, up, act);
        }
        by_curve!(act, |curve| forward(gate, up, curve))
    }

    fn swiglu_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        act: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if all_bf16(&[&grad, &gate, &up]) {
            let (gate, up) = Self::swiglu_backward(widened(grad), widened(gate), widened(up), act);
            return (narrowed(gate), narrowed(up));
        }
        if !all_f32(&[&grad, &gate, &up]) {
            return composed::swiglu_backward::<Self>(grad, gate, up, act);
        }
        by_curve!(act, |curve| backward(grad, gate, up, curve))
    }

    fn scaled_swiglu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        l: FloatTensor<Self>,
        act: Activation,
    ) -> FloatTensor<Self> {
        if all_bf16(&[&gate, &up]) && all_f32(&[&l]) {
            return narrowed(Self::scaled_swiglu(widened(gate), widened(up), l, act));
        }
        if !all_f32(&[&gate, &up, &l]) {
            return composed::scaled_swiglu::<Self>(gate, up, l, act);
        }
        by_curve!(act, |curve| scaled_forward(gate, up, l, curve))
    }

    fn scaled_swiglu_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        l: FloatTensor<Self>,
        act: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if all_bf16(&[&grad, &gate, &up]) && all_f32(&[&l]) {
            let (gate, up, l) = Self::scaled_swiglu_backward(widened(grad), widened(gate), widened(up), l, act);
            return (narrowed(gate), narrowed(up), l);
        }
        if !all_f32(&[&grad, &gate, &up, &l]) {
            return composed::scaled_swiglu_backward::<Self>(grad, gate, up, l, act);
        }
        by_curve!(act, |curve| scaled_backward(grad, gate, up, l, curve))
    }
}

type T = FloatTensor<Flex>;

fn forward(gate: T, up: T, curve: impl Curve) -> T {
    let shape = gate.shape();
    let (gate, up) = (contiguous(gate), contiguous(up));
    let (gate, up) = (values(&gate), values(&up));
    let mut out = flex::buffer(gate.len());
    each_row(
        &mut out,
        WIDTH,
        #[inline(always)]
        |row, out| {
            let at = row * WIDTH;
            let (gate, up) = (&gate[at..][..out.len()], &up[at..][..out.len()]);
            for ((y, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *y = curve.value(gate) * up;
            }
        },
    );
    flex::tensor(out, shape)
}

fn backward(grad: T, gate: T, up: T, curve: impl Curve) -> (T, T) {
    // Each gradient takes the place of what it was made from.
    let (mut grad, gate, mut up) = (owned(grad), contiguous(gate), owned(up));
    let gate = values(&gate);
    each_row2(
        values_mut(&mut grad),
        values_mut(&mut up),
        WIDTH,
        #[inline(always)]
        |row, grad, up| {
            let gate = &gate[row * WIDTH..][..grad.len()];
            for ((grad, up), &gate) in grad.iter_mut().zip(up).zip(gate) {
                let (value, slope) = curve.value_and_slope(gate);
                (*grad, *up) = (*grad * *up * slope, *grad * value);
            }
        },
    );
    (grad, up)
}

fn scaled_forward(gate: T, up: T, l: T, curve: impl Curve) -> T {
    let [n, width] = dims2(&gate);
    let [gate, up, l] = [gate, up, l].map(contiguous);
    let (gate, up, l) = (values(&gate), values(&up), values(&l));
    let mut out = flex::buffer(gate.len());
    each_row(
        &mut out,
        width,
        #[inline(always)]
        |row, out| {
            let at = row * width;
            let (gate, up) = (&gate[at..][..width], &up[at..][..width]);
            for (((y, &gate), &up), &l) in out.iter_mut().zip(gate).zip(up).zip(l) {
                *y = curve.value(gate) * up * l;
            }
        },
    );
    flex::tensor(out, [n, width])
}

fn scaled_backward(grad: T, gate: T, up: T, l: T, curve: impl Curve) -> (T, T, T) {
    let [_, width] = dims2(&gate);
    let (mut grad, gate, mut up, l) = (owned(grad), contiguous(gate), owned(up), contiguous(l));
    let (gate, l) = (values(&gate), values(&l));
    let l_grad = each_row2_summing(
        values_mut(&mut grad),
        values_mut(&mut up),
        width,
        #[inline(always)]
        |row, grad, up, sums| {
            let gate = &gate[row * width..][..width];
            for ((((grad, up), &gate), &l), sum) in grad.iter_mut().zip(up).zip(gate).zip(l).zip(sums) {
                let (value, slope) = curve.value_and_slope(gate);
                *sum += *grad * value * *up;
                let scaled = *grad * l;
                (*grad, *up) = (scaled * *up * slope, scaled * value);
            }
        },
    );
    (grad, up, flex::tensor(l_grad, [width]))
}
