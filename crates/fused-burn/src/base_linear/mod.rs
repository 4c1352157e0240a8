//! `y = x·Wᵀ` for the frozen weight of a base, which may be packed. Backward keeps W alone, as it is, and decodes it again.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use crate::linear::{ProjectionOps, linear};
use crate::packed::{PackedLayout, Weight};

mod composed;
mod cpu;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use cpu::FlexWeight;

/// The frozen weight `[out, in]` of a projection, as an operation's argument.
#[derive(Clone, Debug, ExtensionType)]
pub enum BaseWeight<B: Backend> {
    /// Its values.
    Dense(FloatTensor<B>),
    /// Its codes.
    Packed {
        /// Bytes in host memory (u8), words of four of them elsewhere (i32).
        codes: IntTensor<B>,
        /// In f32.
        scales: FloatTensor<B>,
        /// The meaning of the codes.
        layout: PackedLayout,
    },
}

impl<B: Backend> BaseWeight<B> {
    /// The dtype of its values.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Packed { layout, .. } => layout.dtype,
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => [weight.shape()[0], weight.shape()[1]],
            Self::Packed { layout, .. } => [layout.rows, layout.cols],
        }
    }
}

impl<B: Backend, C: CheckpointStrategy> BaseWeight<Autodiff<B, C>> {
    /// Outside of the graph.
    pub fn into_primitive(self) -> BaseWeight<B> {
        match self {
            Self::Dense(weight) => BaseWeight::Dense(weight.into_primitive()),
            Self::Packed { codes, scales, layout } => {
                BaseWeight::Packed { codes, scales: scales.into_primitive(), layout }
            }
        }
    }
}

/// The operations of a frozen weight W `[out, in]` on rows x `[n, in]` of one dtype.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait BaseWeightOps: ProjectionOps {
    /// `x·Wᵀ`: `[n, out]`.
    #[fusion(default)]
    fn base_project(x: FloatTensor<Self>, #[extension_type] weight: BaseWeight<Self>) -> FloatTensor<Self> {
        composed::base_project::<Self>(x, weight)
    }

    /// The gradient of [`base_project`](Self::base_project) with respect to x, in W's dtype.
    #[fusion(default)]
    fn base_project_backward(grad: FloatTensor<Self>, #[extension_type] weight: BaseWeight<Self>) -> FloatTensor<Self> {
        composed::base_project_backward::<Self>(grad, weight)
    }

    /// Rows `start..start + count` of W, decoded.
    #[fusion(default)]
    fn weight_rows(#[extension_type] weight: BaseWeight<Self>, start: usize, count: usize) -> FloatTensor<Self> {
        composed::weight_rows::<Self>(weight, start, count)
    }

    /// The rows `ids` (`[n]`) of W, decoded.
    #[fusion(default)]
    fn weight_select(#[extension_type] weight: BaseWeight<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        composed::weight_select::<Self>(weight, ids)
    }
}

#[cfg(feature = "cube")]
impl BaseWeightOps for burn_cubecl::CubeBackend {}

impl<B: BaseWeightOps, C: CheckpointStrategy> BaseWeightOps for Autodiff<B, C> {
    fn base_project(x: FloatTensor<Self>, weight: BaseWeight<Self>) -> FloatTensor<Self> {
        let (weight, (x, x_node)) = (weight.into_primitive(), x.into_parts());
        match BaseBackward.prepare::<C>([x_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(weight.clone(), B::base_project(x, weight)),
            OpsKind::UnTracked(prep) => prep.finish(B::base_project(x, weight)),
        }
    }

    fn weight_rows(weight: BaseWeight<Self>, start: usize, count: usize) -> FloatTensor<Self> {
        <FloatTensor<Self>>::new(B::weight_rows(weight.into_primitive(), start, count))
    }

    fn weight_select(weight: BaseWeight<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        <FloatTensor<Self>>::new(B::weight_select(weight.into_primitive(), ids))
    }
}

#[derive(Debug)]
struct BaseBackward;

impl<B: BaseWeightOps> Backward<B, 1> for BaseBackward {
    type State = BaseWeight<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [x_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::base_project_backward(grad, ops.state));
        }
    }
}

/// `x·Wᵀ` of one dtype. A dense W may be trained.
///
/// # Shapes
/// - x: `[n, in]`
/// - weight: `[out, in]`
/// - result: `[n, out]`
pub fn base_linear(x: Tensor<2>, weight: Weight) -> Tensor<2> {
    match weight {
        Weight::Dense(weight) => linear(x, weight),
        packed => {
            Tensor::from_dispatch(<Dispatch as BaseWeightOps>::base_project(x.into_dispatch(), packed.into_base()))
        }
    }
}

/// Whether `x·Wᵀ` and an update made of `factors` can be one operation: their dtypes fit, and W is not trained.
///
/// # Shapes
/// - x: `[n, in]`
/// - weight: `[out, in]`
/// - factors: any
pub fn can_join(x: &Tensor<2>, weight: &Weight, factors: &[&Tensor<2>]) -> bool {
    let mut dtypes = factors.iter().map(|factor| factor.dtype());
    let dtype = dtypes.next().unwrap_or(DType::F32);
    let fits = x.dtype() == weight.dtype() && [x.dtype(), DType::F32].contains(&dtype) && dtypes.all(|d| d == dtype);
    fits && !weight.is_tracked()
}
