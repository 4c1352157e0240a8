//! `silu(gate)·up` or `gelu(gate)·up` (Shazeer 2020), and that times a vector, as (IA)³ (Liu et al. 2022) scales the input of a feedforward
//! block's second layer. Backward reads gate and up alone (and the vector).

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::columns::ColumnOps;

mod activation;
mod composed;
mod cpu;

pub use activation::Activation;

#[cfg(test)]
mod tests;

/// `act(gate)·up`, of one dtype.
///
/// # Shapes
/// - gate, up: `[n, m]`
/// - result: `[n, m]`
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait SwigluOps: ColumnOps {
    /// `act(gate)·up`.
    #[fusion(default)]
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>, act: Activation) -> FloatTensor<Self> {
        composed::swiglu::<Self>(gate, up, act)
    }

    /// The gradients with respect to gate and up.
    #[fusion(default)]
    fn swiglu_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        act: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::swiglu_backward::<Self>(grad, gate, up, act)
    }

    /// `act(gate)·up ∘ l` for l `[columns]` of the same dtype, or of f32.
    #[fusion(default)]
    fn scaled_swiglu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        l: FloatTensor<Self>,
        act: Activation,
    ) -> FloatTensor<Self> {
        composed::scaled_swiglu::<Self>(gate, up, l, act)
    }

    /// The gradients with respect to gate, up and l.
    #[fusion(default)]
    fn scaled_swiglu_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        l: FloatTensor<Self>,
        act: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::scaled_swiglu_backward::<Self>(grad, gate, up, l, act)
    }
}

#[cfg(feature = "cube")]
impl SwigluOps for burn::backend::Cube {}

impl<B: SwigluOps, C: CheckpointStrategy> SwigluOps for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>, act: Activation) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        match SwigluBackward.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate.clone(), up.clone(), act), B::swiglu(gate, up, act)),
            OpsKind::UnTracked(prep) => prep.finish(B::swiglu(gate, up, act)),
        }
    }

    fn scaled_swiglu(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        l: FloatTensor<Self>,
        act: Activation,
    ) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node), (l, l_node)) = (gate.into_parts(), up.into_parts(), l.into_parts());
        match ScaledSwigluBackward.prepare::<C>([gate_node, up_node, l_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(([gate.clone(), up.clone(), l.clone()], act), B::scaled_swiglu(gate, up, l, act))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::scaled_swiglu(gate, up, l, act)),
        }
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: SwigluOps> Backward<B, 2> for SwigluBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (gate, up, act) = ops.state;
        let [gate_node, up_node] = ops.parents;
        let (gate_grad, up_grad) = B::swiglu_backward(grad, gate, up, act);
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
    type State = ([FloatTensor<B>; 3], Activation);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([gate, up, l], act) = ops.state;
        let (gate_grad, up_grad, l_grad) = B::scaled_swiglu_backward(grad, gate, up, l, act);
        for (node, grad) in ops.parents.into_iter().zip([gate_grad, up_grad, l_grad]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// `silu(gate)·up` for tensors of one shape and dtype.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    glu(gate, up, Activation::Silu)
}

/// `act(gate)·up` for tensors of one shape and dtype.
pub fn glu(gate: Tensor<2>, up: Tensor<2>, act: Activation) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as SwigluOps>::swiglu(gate.into_dispatch(), up.into_dispatch(), act))
}

/// `silu(gate)·up ∘ l` for gate and up of one dtype and l of the same or of f32, in gate's dtype.
///
/// # Shapes
/// - gate, up: `[n, m]`
/// - l: `[m]`
/// - result: `[n, m]`
pub fn scaled_swiglu(gate: Tensor<2>, up: Tensor<2>, l: Tensor<1>) -> Tensor<2> {
    scaled_glu(gate, up, l, Activation::Silu)
}

/// As [`scaled_swiglu`], with another activation of the gate.
pub fn scaled_glu(gate: Tensor<2>, up: Tensor<2>, l: Tensor<1>, act: Activation) -> Tensor<2> {
    let (gate, up, l) = (gate.into_dispatch(), up.into_dispatch(), l.into_dispatch());
    Tensor::from_dispatch(<Dispatch as SwigluOps>::scaled_swiglu(gate, up, l, act))
}
