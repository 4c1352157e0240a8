//! Rotary position embedding in Hugging Face's half-split layout. Backward turns the other way and keeps the tables alone.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Slice, Tensor};
use peft_burn::ops::flex::{all_bf16, all_f32, contiguous, dims2, narrowed, owned, values, values_mut, widened};
use peft_burn::ops::rows::each_row;

/// Rotation of the heads of x (`[n, heads·d]`): each pair `(x[i], x[i + d/2])` turns by the angle whose cosine and sine are
/// in the tables (`[m, d/2]`, x's dtype; n is a multiple of m, and row r of x takes row `r mod m`).
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait RopeOps: Backend {
    /// Turns forward, or back with `inverse`.
    #[fusion(default)]
    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool) -> FloatTensor<Self> {
        composed::<Self>(x, cos, sin, inverse)
    }
}

/// The operation in terms of ordinary tensor operations, for every backend.
fn composed<B: Backend>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>, inverse: bool) -> FloatTensor<B> {
    let (shape, tables) = (x.shape(), cos.shape());
    let (rows, half) = (tables[0], tables[1]);
    let (repeats, heads) = (shape[0] / rows.max(1), shape[1] / (2 * half));
    let table = |t| B::float_reshape(t, Shape::from([1, rows, 1, half]));
    let (cos, sin) = (table(cos), table(sin));
    let sin = if inverse { B::float_neg(sin) } else { sin };
    let x = B::float_reshape(x, Shape::from([repeats, rows, heads, 2 * half]));
    let part = |start: usize| {
        let slices = [0..repeats, 0..rows, 0..heads, start..start + half].map(Slice::from);
        B::float_slice(x.clone(), &slices)
    };
    let (first, second) = (part(0), part(half));
    let turned = B::float_cat(
        vec![
            B::float_sub(B::float_mul(first.clone(), cos.clone()), B::float_mul(second.clone(), sin.clone())),
            B::float_add(B::float_mul(second, cos), B::float_mul(first, sin)),
        ],
        3,
    );
    B::float_reshape(turned, shape)
}

#[cfg(feature = "cube")]
impl RopeOps for burn::backend::Cube {}

impl RopeOps for Flex {
    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool) -> FloatTensor<Self> {
        if all_bf16(&[&x, &cos, &sin]) {
            return narrowed(Self::rope(widened(x), widened(cos), widened(sin), inverse));
        }
        if !all_f32(&[&x, &cos, &sin]) {
            return composed::<Self>(x, cos, sin, inverse);
        }
        let ([_, width], [rows, half]) = (dims2(&x), dims2(&cos));
        let (mut x, cos, sin) = (owned(x), contiguous(cos), contiguous(sin));
        let (cos, sin) = (values(&cos), values(&sin));
        let sign = if inverse { -1.0 } else { 1.0 };
        each_row(
            values_mut(&mut x),
            width,
            #[inline(always)]
            |row, x| {
                let at = row % rows * half;
                let (cos, sin) = (&cos[at..][..half], &sin[at..][..half]);
                for head in x.chunks_exact_mut(2 * half) {
                    let (first, second) = head.split_at_mut(half);
                    for i in 0..half {
                        let sin = sin[i] * sign;
                        (first[i], second[i]) =
                            (first[i] * cos[i] - second[i] * sin, second[i] * cos[i] + first[i] * sin);
                    }
                }
            },
        );
        x
    }
}

impl<B: RopeOps, C: CheckpointStrategy> RopeOps for Autodiff<B, C> {
    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, inverse: bool) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match RopeBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((cos.clone(), sin.clone(), !inverse), B::rope(x, cos, sin, inverse)),
            OpsKind::UnTracked(prep) => prep.finish(B::rope(x, cos, sin, inverse)),
        }
    }
}

#[derive(Debug)]
struct RopeBackward;

impl<B: RopeOps> Backward<B, 1> for RopeBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, bool);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (cos, sin, inverse) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::rope(grad, cos, sin, inverse));
        }
    }
}

/// Turns the heads of x (`[n, heads·d]`) by the angles whose cosines and sines are given (`[m, d/2]`; row r of x takes
/// row `r mod m`).
pub fn rope(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<2> {
    let (cos, sin) = (cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(<Dispatch as RopeOps>::rope(x.into_dispatch(), cos, sin, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_same, computes, evaluate, random};
    use burn::tensor::{DType, Tolerance};

    /// Transformers' form: `x·cos + rotate_half(x)·sin`.
    fn rotate_half(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<2> {
        let ([n, width], [m, half]) = (x.dims(), cos.dims());
        let d = 2 * half;
        let x = x.reshape([n / m, m, width / d, d]);
        let (first, second) = (x.clone().slice_dim(3, 0..half), x.clone().slice_dim(3, half..d));
        let turned = Tensor::cat(vec![second.neg(), first], 3);
        let twice = |t: Tensor<2>| Tensor::cat(vec![t.clone(), t], 1).reshape([1, m, 1, d]);
        (x * twice(cos) + turned * twice(sin)).reshape([n, width])
    }

    fn tables(m: usize, half: usize) -> (Tensor<2>, Tensor<2>) {
        let angles = random(7, [m, half]).detach() * 3.0;
        (angles.clone().cos(), angles.sin())
    }

    #[test]
    fn fused_is_composed_with_its_gradient() {
        for (repeats, m, heads, half) in [(1, 1, 1, 1), (2, 3, 5, 4), (4, 33, 9, 32)] {
            let (cos, sin) = tables(m, half);
            let inputs = [random(1, [repeats * m, heads * half * 2])];
            let fused = evaluate(&inputs, |t| rope(t[0].clone(), cos.clone(), sin.clone()));
            assert_same(&fused, &evaluate(&inputs, |t| rotate_half(t[0].clone(), cos.clone(), sin.clone())), 1e-5);
        }
    }

    #[test]
    fn an_input_that_is_used_elsewhere_keeps_its_values() {
        let (cos, sin) = tables(3, 2);
        let x = random(1, [3, 4]);
        let before = x.to_data();
        let turned = rope(x.clone(), cos, sin).into_data();
        assert_eq!(x.into_data(), before);
        assert_ne!(turned, before);
    }

    #[test]
    fn gradients_are_the_slopes() {
        let (cos, sin) = tables(3, 2);
        assert_finite_differences(&[random(5, [6, 8])], |t| {
            let [cos, sin] = [&cos, &sin].map(|table| table.clone().inner().cast(DType::F64));
            let [cos, sin] = if t[0].is_autodiff() { [cos, sin].map(Tensor::from_inner) } else { [cos, sin] };
            rope(t[0].clone(), cos, sin)
        });
    }

    #[test]
    fn the_composed_form_turns_back_too() {
        if !computes(DType::F64) {
            return;
        }
        let (cos, sin) = tables(3, 2);
        let x = random(1, [6, 8]);
        let half = |t: Tensor<2>| t.cast(DType::F64).into_dispatch();
        let turned = <Dispatch as RopeOps>::rope(half(x.clone()), half(cos.clone()), half(sin.clone()), false);
        let back = <Dispatch as RopeOps>::rope(turned.clone(), half(cos.clone()), half(sin.clone()), true);
        let single = |t| Tensor::<2>::from_dispatch(t).cast(DType::F32).into_data();
        single(back).assert_approx_eq::<f32>(&x.to_data(), Tolerance::absolute(1e-6));
        single(turned).assert_approx_eq::<f32>(&rope(x, cos, sin).into_data(), Tolerance::absolute(1e-5));
    }
}
