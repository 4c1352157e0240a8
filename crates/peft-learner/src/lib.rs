//! Fine-tuning.
pub mod bench;
pub mod loss;
