//! Fine-tuning through Burn's training loop: configuration, data, schedules, metrics and reports.

mod adalora;
pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod fit;
mod loader;
pub mod loss;
pub mod metrics;
pub mod plot;
pub mod progress;
pub mod rank_plot;
pub mod run;
pub mod schedule;
pub mod step;

pub use error::{LearnerError, Result};
