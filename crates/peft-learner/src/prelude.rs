//! All that a program that trains usually names: `use peft_learner::prelude::*;`.

pub use crate::adapted::{Adapted, StepMetric, optimizer_steps};
pub use crate::base::Base;
pub use crate::config::TrainingConfig;
pub use crate::data::{Example, Examples, Stream, StreamConfig};
pub use crate::device::DeviceName;
pub use crate::evaluate::{answer, evaluate, exact_match};
pub use crate::report::{EpochLines, ShowEpochs, StepReport};
pub use crate::train::{CausalLm, Evaluated, Existing, Finetune, Flow, Report, Saved, StepOptions};
pub use crate::{LearnerError, train_by_loss};
