//! LoRA (Hu et al. 2021), `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ`, as one operation.
//!
//! On the CPU the second product is added where the first was written, and the same in backward. Backward reads x, which
//! projections of one input share, and `x·Aᵀ`.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use fused_burn::{BaseWeight, BaseWeightOps, Weight};

mod composed;
mod cpu;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// Linear maps of rows: x `[n, in]`, W `[out, in]`, A `[r, in]`, B `[out, r]`. x and W are of one dtype, and so are A and B:
/// the same, or f32 where that one is less precise; the sum with what A and B make is then f32 too, and rounded at the end.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait LoraOps: BaseWeightOps {
    /// `x·Wᵀ + s·low·Bᵀ`, and `low = x·Aᵀ` (`[n, r]`), which backward reads. W is a constant. The sum is in x's dtype if
    /// `rounded`, else in A's.
    #[fusion(default)]
    fn lora_linear(
        x: FloatTensor<Self>,
        #[extension_type] weight: BaseWeight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::lora_linear::<Self>(x, weight, a, b, scale, rounded)
    }

    /// The gradients of [`lora_linear`](Self::lora_linear) with respect to A, B and `low`.
    #[fusion(default)]
    fn lora_factors_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        low: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::lora_factors_backward::<Self>(grad, x, low, b, scale)
    }

    /// The gradient of [`lora_linear`](Self::lora_linear) with respect to x: `g·W + low_grad·A`.
    #[fusion(default)]
    fn lora_input_backward(
        grad: FloatTensor<Self>,
        #[extension_type] weight: BaseWeight<Self>,
        low_grad: FloatTensor<Self>,
        a: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::lora_input_backward::<Self>(grad, weight, low_grad, a)
    }
}

#[cfg(feature = "cube")]
impl LoraOps for burn::backend::Cube {}

impl<B: LoraOps, C: CheckpointStrategy> LoraOps for Autodiff<B, C> {
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
        rounded: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let ((x, x_node), weight) = (x.into_parts(), weight.into_primitive());
        let ((a, a_node), (b, b_node)) = (a.into_parts(), b.into_parts());
        let (y, low) = B::lora_linear(x.clone(), weight.clone(), a.clone(), b.clone(), scale, rounded);
        let y = match LoraBackward.prepare::<C>([x_node, a_node, b_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(LoraState { x, weight, a, b, low: low.clone(), scale }, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, <FloatTensor<Self>>::new(low))
    }
}

#[derive(Debug)]
struct LoraBackward;

/// The tensors that the backward pass of a product with LoRA's update reads.
#[derive(Clone, Debug)]
pub struct LoraState<B: Backend> {
    pub x: FloatTensor<B>,
    pub weight: BaseWeight<B>,
    pub a: FloatTensor<B>,
    pub b: FloatTensor<B>,
    pub low: FloatTensor<B>,
    pub scale: f32,
}

impl<B: LoraOps> LoraState<B> {
    /// The gradients with respect to A, B and, if it is wanted, x.
    pub fn backward(self, grad: FloatTensor<B>, wants_x: bool) -> [Option<FloatTensor<B>>; 3] {
        let Self { x, weight, a, b, low, scale } = self;
        let (a_grad, b_grad, low_grad) = B::lora_factors_backward(grad.clone(), x, low, b, scale);
        let x_grad = wants_x.then(|| B::lora_input_backward(grad, weight, low_grad, a));
        [Some(a_grad), Some(b_grad), x_grad]
    }
}

impl<B: LoraOps> Backward<B, 3> for LoraBackward {
    type State = LoraState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, a_node, b_node] = ops.parents;
        let found = ops.state.backward(grad, x_node.is_some());
        for (node, grad) in [a_node, b_node, x_node].into_iter().zip(found) {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// `x·Wᵀ + s·(x·Aᵀ)·Bᵀ` for x `[n, in]`, W `[out, in]`, A `[r, in]` and B `[out, r]`: x and W of
/// one dtype, A and B of the same or of f32. W gets no gradient.
///
/// The sum is in x's dtype if `rounded`, else in A's.
pub fn lora_linear(
    x: Tensor<2>,
    weight: impl Into<Weight>,
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
    rounded: bool,
) -> Tensor<2> {
    let (y, _) = <Dispatch as LoraOps>::lora_linear(
        x.into_dispatch(),
        weight.into().into_base(),
        a.into_dispatch(),
        b.into_dispatch(),
        scale as f32,
        rounded,
    );
    Tensor::from_dispatch(y)
}
