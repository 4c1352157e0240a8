//! Fine-tuning through Burn's training loop: configuration, data, schedules, metrics and reports.

pub mod config;
pub mod data;
pub mod error;

pub use error::{LearnerError, Result};
