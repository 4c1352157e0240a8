#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! * [`Finetune`](train::Finetune) is a run: model, data, options, callbacks. [`CausalLm`](train::CausalLm) is the same model for
//!   a training loop of your own.
//! * [`Adapted`](adapted::Adapted) puts an adapter on a Burn model of your own, which then trains in Burn's loop.
//! * [`ConfiguredRun`](from_config::ConfiguredRun) makes a run from a configuration file, as `peft train` does.
//! * [`evaluate`](evaluate::evaluate) and [`answer`](evaluate::answer) say how good a model is.

pub mod adapted;
pub mod base;
pub mod bench;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod estimate;
pub mod evaluate;
pub mod from_config;
pub mod prelude;
mod problems;
pub mod report;
pub mod train;
pub mod whole_file;

#[doc(hidden)]
pub use burn;
pub use error::{
    AdaLoraError, DataFileProblem, LearnerError, Problems, Result, ResumeError, StepCountError, StreamError,
};
