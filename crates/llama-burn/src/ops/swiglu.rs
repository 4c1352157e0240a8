//! `silu(gate)·up` (Shazeer 2020), and that times a vector, as (IA)³ (Liu et al. 2022) scales the input of a feedforward
//! block's second layer. Backward reads gate and up alone (and the vector).

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use peft_burn::ops::ColumnOps;
use peft_burn::ops::flex::{self, all_bf16, all_f32, contiguous, dims2, narrowed, owned, values, values_mut, widened};
use peft_burn::ops::rows::{each_row, each_row2, each_row2_summing};
use peft_burn::ops::simd::sigmoid;

/// `silu(gate)·up` for tensors of one shape and dtype.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait SwigluOps: ColumnOps {
    /// `gate·σ(gate)·up`.
    #[fusion(default)]
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::swiglu::<Self>(gate, up)
    }

    /// The gradients with respect to gate and up.
    #[fusion(default)]
    fn swiglu_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::swiglu_backward::<Self>(grad, gate, up)
    }

    /// `gate·σ(gate)·up ∘ l` for l `[columns]` of the same dtype, or of f32.
    #[fusion(default)]
    fn scaled_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>, l: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::scaled_swiglu::<Self>(gate, up, l)
    }

    /// The gradients with respect to gate, up and l.
    #[fusion(default)]
    fn scaled_swiglu_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        l: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::scaled_swiglu_backward::<Self>(grad, gate, up, l)
    }
}

/// The operation in terms of ordinary tensor operations, for every backend.
mod composed {
    use super::{Backend, FloatTensor, SwigluOps};

    pub(super) fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        B::float_mul(B::float_mul(gate.clone(), B::sigmoid(gate)), up)
    }

    pub(super) fn swiglu_backward<B: Backend>(
        grad: FloatTensor<B>,
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        // silu'(x) = σ(x)·(1 + x·(1 − σ(x))) = σ(x) + silu(x)·(1 − σ(x)).
        let sigmoid = B::sigmoid(gate.clone());
        let silu = B::float_mul(gate, sigmoid.clone());
        let up_grad = B::float_mul(grad.clone(), silu.clone());
        let slope = B::float_add(sigmoid.clone(), B::float_sub(silu.clone(), B::float_mul(silu, sigmoid)));
        (B::float_mul(B::float_mul(grad, up), slope), up_grad)
    }

    pub(super) fn scaled_swiglu<B: SwigluOps>(
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
        l: FloatTensor<B>,
    ) -> FloatTensor<B> {
        B::scale_columns(B::swiglu(gate, up), l)
    }

    pub(super) fn scaled_swiglu_backward<B: SwigluOps>(
        grad: FloatTensor<B>,
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
        l: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let (grad, l_grad) = B::scale_columns_backward(grad, B::swiglu(gate.clone(), up.clone()), l);
        let (gate_grad, up_grad) = B::swiglu_backward(grad, gate, up);
        (gate_grad, up_grad, l_grad)
    }
}

#[cfg(feature = "cube")]
impl SwigluOps for burn::backend::Cube {}

/// Any length serves: the rows are not rows of anything.
const WIDTH: usize = 1 << 10;

impl SwigluOps for Flex {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if all_bf16(&[&gate, &up]) {
            return narrowed(Self::swiglu(widened(gate), widened(up)));
        }
        if !all_f32(&[&gate, &up]) {
            return composed::swiglu::<Self>(gate, up);
        }
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
                    *y = gate * sigmoid(gate) * up;
                }
            },
        );
        flex::tensor(out, shape)
    }

    fn swiglu_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if all_bf16(&[&grad, &gate, &up]) {
            let (gate, up) = Self::swiglu_backward(widened(grad), widened(gate), widened(up));
            return (narrowed(gate), narrowed(up));
        }
        if !all_f32(&[&grad, &gate, &up]) {
            return composed::swiglu_backward::<Self>(grad, gate, up);
        }
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
                    let sigmoid = sigmoid(gate);
                    let silu = gate * sigmoid;
                    let slope = sigmoid + silu * (1.0 - sigmoid);
                    (*grad, *up) = (*grad * *up * slope, *grad * silu);
                }
            },
        );
        (grad, up)
    }

    fn scaled_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>, l: FloatTensor<Self>) -> FloatTensor<Self> {
        if all_bf16(&[&gate, &up]) && all_f32(&[&l]) {
            return narrowed(Self::scaled_swiglu(widened(gate), widened(up), l));
        }
        if !all_f32(&[&gate, &up, &l]) {
            return composed::scaled_swiglu::<Self>(gate, up, l);
        }
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
                    *y = gate * sigmoid(gate) * up * l;
                }
            },
        );
        flex::tensor(out, [n, width])
    }

    fn scaled_swiglu_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        l: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if all_bf16(&[&grad, &gate, &up]) && all_f32(&[&l]) {
            let (gate, up, l) = Self::scaled_swiglu_backward(widened(grad), widened(gate), widened(up), l);
            return (narrowed(gate), narrowed(up), l);
        }
        if !all_f32(&[&grad, &gate, &up, &l]) {
            return composed::scaled_swiglu_backward::<Self>(grad, gate, up, l);
        }
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
                    let sigmoid = sigmoid(gate);
                    let silu = gate * sigmoid;
                    let slope = sigmoid + silu * (1.0 - sigmoid);
                    *sum += *grad * silu * *up;
                    let scaled = *grad * l;
                    (*grad, *up) = (scaled * *up * slope, scaled * silu);
                }
            },
        );
        (grad, up, flex::tensor(l_grad, [width]))
    }
}

impl<B: SwigluOps, C: CheckpointStrategy> SwigluOps for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        match SwigluBackward.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate.clone(), up.clone()), B::swiglu(gate, up)),
            OpsKind::UnTracked(prep) => prep.finish(B::swiglu(gate, up)),
        }
    }

    fn scaled_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>, l: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node), (l, l_node)) = (gate.into_parts(), up.into_parts(), l.into_parts());
        match ScaledSwigluBackward.prepare::<C>([gate_node, up_node, l_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([gate.clone(), up.clone(), l.clone()], B::scaled_swiglu(gate, up, l)),
            OpsKind::UnTracked(prep) => prep.finish(B::scaled_swiglu(gate, up, l)),
        }
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: SwigluOps> Backward<B, 2> for SwigluBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        let [gate_node, up_node] = ops.parents;
        let (gate_grad, up_grad) = B::swiglu_backward(grad, gate, up);
        if let Some(node) = gate_node {
            grads.register::<B>(node.id, gate_grad);
        }
        if let Some(node) = up_node {
            grads.register::<B>(node.id, up_grad);
        }
    }
}

#[derive(Debug)]
struct ScaledSwigluBackward;

impl<B: SwigluOps> Backward<B, 3> for ScaledSwigluBackward {
    type State = [FloatTensor<B>; 3];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [gate, up, l] = ops.state;
        let (gate_grad, up_grad, l_grad) = B::scaled_swiglu_backward(grad, gate, up, l);
        for (node, grad) in ops.parents.into_iter().zip([gate_grad, up_grad, l_grad]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// `silu(gate)·up` for tensors of one shape and dtype.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as SwigluOps>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// `silu(gate)·up ∘ l` for gate and up `[n, m]` of one dtype and l `[m]` of the same or of f32, in gate's dtype.
pub fn scaled_swiglu(gate: Tensor<2>, up: Tensor<2>, l: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as SwigluOps>::scaled_swiglu(
        gate.into_dispatch(),
        up.into_dispatch(),
        l.into_dispatch(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_near, assert_same, computes, evaluate, random};
    use burn::tensor::activation::silu;
    use burn::tensor::{DType, Tolerance};

    #[test]
    fn fused_is_composed_with_both_gradients() {
        for shape in [[1, 1], [3, 5], [70, 33], [129, 1536]] {
            let inputs = [random(1, shape) * 4.0, random(2, shape)];
            let fused = evaluate(&inputs, |t| swiglu(t[0].clone(), t[1].clone()));
            assert_same(&fused, &evaluate(&inputs, |t| silu(t[0].clone()) * t[1].clone()), 1e-5);
        }
    }

    /// l as the other inputs are, a row of a matrix.
    fn scaled(t: &[Tensor<2>]) -> Tensor<2> {
        scaled_swiglu(t[0].clone(), t[1].clone(), t[2].clone().flatten(0, 1))
    }

    #[test]
    fn scaled_is_composed_with_every_gradient() {
        for shape in [[1, 1], [3, 5], [70, 33], [129, 1536]] {
            let inputs = [random(1, shape) * 4.0, random(2, shape), random(3, [1, shape[1]])];
            let composed = evaluate(&inputs, |t| silu(t[0].clone()) * t[1].clone() * t[2].clone());
            assert_same(&evaluate(&inputs, scaled), &composed, 1e-4);
        }
        let one = [random(1, [5, 7]), random(3, [1, 7])];
        let fused = evaluate(&one, |t| scaled(&[t[0].clone(), t[0].clone(), t[1].clone()]));
        assert_same(&fused, &evaluate(&one, |t| silu(t[0].clone()) * t[0].clone() * t[1].clone()), 1e-4);
    }

    #[test]
    fn one_tensor_in_both_places() {
        let inputs = [random(1, [5, 7])];
        let fused = evaluate(&inputs, |t| swiglu(t[0].clone(), t[0].clone()));
        assert_same(&fused, &evaluate(&inputs, |t| silu(t[0].clone()) * t[0].clone()), 1e-5);
    }

    #[test]
    fn gradients_are_the_slopes() {
        assert_finite_differences(&[random(5, [3, 4]), random(6, [3, 4])], |t| swiglu(t[0].clone(), t[1].clone()));
        assert_finite_differences(&[random(5, [3, 4]), random(6, [3, 4]), random(7, [1, 4])], scaled);
    }

    #[test]
    fn half_precision() {
        if !computes(DType::BF16) {
            return;
        }
        let (gate, up) = (random(3, [4, 64]), random(4, [4, 64]));
        let expected = (silu(gate.clone()) * up.clone()).into_data();
        let half = swiglu(gate.clone().cast(DType::BF16), up.clone().cast(DType::BF16)).cast(DType::F32).into_data();
        half.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(0.03, 0.03));
        let single = evaluate(&[gate.clone(), up.clone(), random(5, [1, 64])], scaled);
        let half = evaluate(&[gate, up, random(5, [1, 64])], |t| {
            let y = scaled(&[t[0].clone().cast(DType::BF16), t[1].clone().cast(DType::BF16), t[2].clone()]);
            assert_eq!(y.dtype(), DType::BF16);
            y.cast(DType::F32)
        });
        assert_near(&half, &single);
    }
}
