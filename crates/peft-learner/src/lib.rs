//! Fine-tuning through Burn's training loop: configuration, data, schedules, metrics and reports.
//!
//! [`Finetune`](train::Finetune) trains a model that is in memory:
//!
//! ```no_run
//! use burn::tensor::Device;
//! use llama_burn::Llama;
//! use peft_burn::{LoraConfig, PeftModel};
//! use peft_learner::config::TrainingConfig;
//! use peft_learner::data::Example;
//! use peft_learner::train::{Finetune, Flow};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (train, valid): (Vec<Example>, Vec<Example>) = Default::default();
//! let mut model = Llama::from_dir("models/smollm2", None, &Device::flex())?;
//! model.add_adapter("default", &LoraConfig::default().into(), 42)?;
//! let training = TrainingConfig { max_steps: Some(100), ..TrainingConfig::default() };
//! let (model, report) = Finetune::new(model, "default", training)
//!     .train(train)
//!     .valid(valid)
//!     .on_step(|step| println!("step {}: {:.4}", step.step, step.loss))
//!     .on_evaluation(|evaluated| if evaluated.worse() { Flow::Stop } else { Flow::Go })
//!     .run("runs/mine")?;
//! println!("{} steps; {}", report.steps, model.trainable_parameters());
//! # Ok(())
//! # }
//! ```
//!
//! [`Adapted`](adapted::Adapted) puts an adapter on a Burn model of one's own, which then trains in Burn's loop.
//! [`ConfiguredRun`](from_config::ConfiguredRun) makes a [`Finetune`](train::Finetune) from a configuration file, as `peft train` does.

pub mod adapted;
pub mod base;
pub mod bench;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod from_config;
pub mod prelude;
mod problems;
pub mod report;
pub mod train;
pub mod whole_file;

#[doc(hidden)]
pub use burn;
pub use error::{LearnerError, Result};
