//! In terms of other operations, for every backend; they keep the sum before it is scaled.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use fused_burn::{BaseWeight, ColumnOps, cast};

use crate::methods::lora::op::LoraOps;

pub(super) fn dora_linear<B: LoraOps + ColumnOps>(
    x: FloatTensor<B>,
    weight: BaseWeight<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    c: FloatTensor<B>,
    scale: f32,
    rounded: bool,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dtype = if rounded { x.dtype() } else { c.dtype() };
    let (sum, low) = B::lora_linear(x, weight, a, b, scale, false);
    let sum = cast::<B>(sum, c.dtype());
    (cast::<B>(B::scale_columns(sum.clone(), c), dtype), low, sum)
}
