//! Fine-tuning.
pub mod loss;
