//! Layers with adapters.

mod base_param;
pub(crate) mod embedding;
mod frozen;
pub(crate) mod layer;
pub(crate) mod linear;
pub(crate) mod named_adapters;
pub(crate) mod norm;
pub(crate) mod trained_rows;

pub use base_param::{BaseParam, PackedBase};
pub use embedding::{EmbeddingAdapter, PeftEmbedding};
pub use frozen::Frozen;
pub use layer::{LayerMut, LayerRef};
pub use linear::{LinearAdapter, PeftLinear, Projection};
pub use named_adapters::{LayerAdapter, NamedAdapters};
pub use norm::{NormAdapter, PeftNorm};
pub use trained_rows::TrainableTokens;
