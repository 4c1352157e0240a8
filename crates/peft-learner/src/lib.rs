//! Fine-tuning through Burn's training loop: configuration, data, schedules, metrics and reports.

pub mod config;
pub mod data;
pub mod error;
pub mod files;
pub mod loss;
pub mod metrics;
pub mod plot;
pub mod progress;
pub mod schedule;

pub use error::{LearnerError, Result};
