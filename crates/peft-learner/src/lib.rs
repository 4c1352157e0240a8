//! Fine-tuning through Burn's training loop: configuration, data, schedules, metrics and reports.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use peft_learner::config::RunConfig;
//! use peft_learner::run::{Existing, RunOptions, train};
//!
//! # fn main() -> Result<(), peft_learner::LearnerError> {
//! let config = RunConfig::load("my.toml", &["training.max_steps=100".to_owned()])?;
//! let options = RunOptions { existing: Existing::Refuse, dashboard: false };
//! let (base, report) = train(&config, options, &Device::flex(), |line| eprintln!("{line}"))?;
//! println!("{} steps, adapter in {}", report.fit.steps, report.adapter.display());
//! println!("{}", base.model.config().num_parameters());
//! # Ok(())
//! # }
//! ```
//!
//! [`run`] is a whole run from its configuration file; [`fit`](fit::fit) trains a model that is in memory.

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
mod loraplus;
pub mod loss;
pub mod memory;
pub mod metrics;
pub mod plot;
pub mod progress;
pub mod rank_plot;
mod replicas;
pub mod run;
pub mod schedule;
pub mod step;

pub use error::{LearnerError, Result};
