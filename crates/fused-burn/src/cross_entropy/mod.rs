//! Cross-entropy of next tokens, straight from hidden states: a slice of the logits at a time, and the gradient in the
//! same pass as the loss.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Int, Shape, Tensor};

use crate::base_linear::{BaseWeight, BaseWeightOps};
use crate::packed::Weight;
#[cfg(feature = "fusion")]
use crate::precision::precise;

mod composed;
mod cpu;
#[cfg(feature = "cube")]
mod gpu;
mod rule;

pub use rule::LogitRule;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// The summed negative log-likelihood of targets (`[n]`) given hidden states (`[n, width]`) and the head's weight
/// (`[vocab, width]`, of the same dtype).
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait CrossEntropyOps: BaseWeightOps {
    /// The sum times `scale` (`[1]`, in f32 at least) for the logits that `rule` makes, and its gradients with respect to hidden states and weight, where wanted.
    #[fusion(default)]
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        #[extension_type] weight: BaseWeight<Self>,
        targets: IntTensor<Self>,
        scale: f64,
        rule: LogitRule,
        wanted: [bool; 2],
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        composed::cross_entropy::<Self>(hidden, weight, targets, scale, rule, wanted, composed::CHUNK_ELEMENTS)
    }

    /// Of a head's product (`[n, vocab]`), its gradient in `dtype` where the loss's is `scale`, and the loss of each row
    /// (`[n, 1]`, in f32 at least, not scaled).
    #[fusion(meta = |product, _targets, _scale, _rule, dtype| (
        TensorSpec::new(product.shape.clone(), *dtype),
        TensorSpec::new(Shape::from([product.shape[0], 1]), precise(product.dtype)),
    ))]
    fn logit_gradients(
        product: FloatTensor<Self>,
        targets: IntTensor<Self>,
        scale: f64,
        rule: LogitRule,
        dtype: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::logit_gradients::<Self>(product, targets, scale, rule, dtype)
    }
}

impl<B: CrossEntropyOps, C: CheckpointStrategy> CrossEntropyOps for Autodiff<B, C> {
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        weight: BaseWeight<Self>,
        targets: IntTensor<Self>,
        scale: f64,
        rule: LogitRule,
        _: [bool; 2],
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        let wants_hidden = hidden.is_tracked();
        let (hidden, hidden_node) = hidden.into_parts();
        // A packed weight has no gradient.
        let loss = match weight {
            BaseWeight::Dense(weight) => {
                let wanted = [wants_hidden, weight.is_tracked()];
                let (weight, weight_node) = weight.into_parts();
                let weight = BaseWeight::Dense(weight);
                let (loss, hidden_grad, weight_grad) = B::cross_entropy(hidden, weight, targets, scale, rule, wanted);
                match CrossEntropyBackward.prepare::<C>([hidden_node, weight_node]).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish([hidden_grad, weight_grad], loss),
                    OpsKind::UnTracked(prep) => prep.finish(loss),
                }
            }
            packed => {
                let (weight, wanted) = (packed.into_primitive(), [wants_hidden, false]);
                let (loss, hidden_grad, _) = B::cross_entropy(hidden, weight, targets, scale, rule, wanted);
                match CrossEntropyBackward.prepare::<C>([hidden_node]).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish([hidden_grad], loss),
                    OpsKind::UnTracked(prep) => prep.finish(loss),
                }
            }
        };
        (loss, None, None)
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl<B: CrossEntropyOps, const N: usize> Backward<B, N> for CrossEntropyBackward {
    type State = [Option<FloatTensor<B>>; N];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for (node, own) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(own)) = (node, own) {
                let grad = B::float_cast(B::float_reshape(grad.clone(), Shape::from([1, 1])), own.dtype().into());
                grads.register::<B>(node.id, B::float_mul(own, grad));
            }
        }
    }
}

/// The summed negative log-likelihood (nats) of `targets` given `hidden` and the head's `weight`, which is of the same
/// dtype, times `scale`; in f32 at least.
///
/// A slice of the logits exists at a time and none is kept: the gradient is worked out in the same pass as the loss.
///
/// # Shapes
/// - hidden: `[n, width]`
/// - weight: `[vocab, width]`
/// - targets: `[n]`
/// - result: `[1]`
pub fn cross_entropy(hidden: Tensor<2>, weight: impl Into<Weight>, targets: Tensor<1, Int>, scale: f64) -> Tensor<1> {
    cross_entropy_with(hidden, weight, targets, scale, LogitRule::default())
}

/// As [`cross_entropy`], of the logits that `rule` makes of the head's product.
pub fn cross_entropy_with(
    hidden: Tensor<2>,
    weight: impl Into<Weight>,
    targets: Tensor<1, Int>,
    scale: f64,
    rule: LogitRule,
) -> Tensor<1> {
    let (hidden, weight, targets) = (hidden.into_dispatch(), weight.into().into_base(), targets.into_dispatch());
    let (loss, ..) = <Dispatch as CrossEntropyOps>::cross_entropy(hidden, weight, targets, scale, rule, [false; 2]);
    Tensor::from_dispatch(loss)
}
