//! In terms of other operations, for every backend; they keep the product before it is scaled.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;

use crate::base_linear::{BaseWeight, BaseWeightOps};
use crate::columns::ColumnOps;
use crate::precision::cast;

pub(super) fn scaled_linear<B: BaseWeightOps + ColumnOps>(
    x: FloatTensor<B>,
    weight: BaseWeight<B>,
    c: FloatTensor<B>,
    rounded: bool,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = if rounded { x.dtype() } else { c.dtype() };
    let product = cast::<B>(B::base_project(x, weight), c.dtype());
    (cast::<B>(B::scale_columns(product.clone(), c), dtype), product)
}
