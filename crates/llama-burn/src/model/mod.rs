//! The decoder: its modules, its forward pass, and what fine-tuning and generation need of it.

mod adapters;
mod attention;
mod cache;
mod causal;
mod dropped_attention;
mod input;
mod layer;
mod llama;
mod mask;
mod mlp;
mod module;
mod norm;
pub(crate) mod parts;
mod pattern;
mod projection;
mod random;
mod recompute;
mod rotary;
mod served;
mod surroundings;

pub use attention::Attention;
pub use cache::KvCache;
pub use causal::{CausalModel, ModelSpec};
pub use input::Input;
pub use layer::DecoderLayer;
pub use llama::Llama;
pub use mask::AttentionMask;
pub use mlp::Mlp;
pub use norm::RmsNorm;
pub use served::Step;
