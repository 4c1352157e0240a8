//! DoRA: LoRA of the weight's direction, and learned norms. Its configuration is LoRA's with `use_dora`.

mod embedding;
mod init;
mod layer;
mod magnitude;
mod op;

pub use embedding::EmbeddingLora;
pub use layer::Dora;
pub use magnitude::Magnitude;
