//! Parameter-efficient fine-tuning on Burn.

mod config;
mod constant;
mod embedding;
mod error;
pub mod files;
mod frozen;
mod linear;
pub mod methods;
mod model;
mod mt19937;
pub mod ops;
mod param;
mod random;
mod report;
mod summary;
mod svd;
pub mod targets;
pub mod tensor_file;

pub use config::*;
pub use embedding::{EmbeddingAdapter, EmbeddingLora, PeftEmbedding, TrainableTokens};
pub use error::{PeftError, Result};
pub use files::AdapterFiles;
pub use frozen::Frozen;
pub use linear::{LinearAdapter, PeftLinear, Projection};
pub use model::{AdaptableModel, LayerMut, LayerRef, PeftModel, PeftState};
pub use mt19937::vera_projection;
pub use param::{ParamMut, ParamRef};
pub use random::TensorRng;
pub use report::*;
pub use summary::{AdaptedModule, AdapterSummary};
