//! Training: a run from its first check to its last checkpoint, and the step that Burn's loop calls.

mod adalora;
mod callbacks;
mod causal_lm;
mod checkpoint;
mod checks;
mod clip;
mod contents;
mod finetune;
mod journal;
mod loader;
mod loraplus;
mod loss;
mod memory;
mod output_folder;
mod replicas;
mod run;
mod samples;
mod schedule;
mod seeds;
mod settings;
mod stop;

pub(crate) use adalora::restart;
pub use callbacks::{Evaluated, Flow, Saved};
pub use causal_lm::{CausalLm, LmOutput, StepOptions};
pub use checkpoint::{Checkpoints, TrainerState};
pub use clip::clip;
pub(crate) use contents::of_files;
pub use finetune::{Finetune, Report};
pub use loss::{batch_loss, cross_entropy, input};
pub use memory::keep_freed_memory;
pub use output_folder::{Existing, check_output};
pub use samples::{Sample, read_samples};
pub use schedule::{Schedule, ScheduledLr};
pub(crate) use seeds::mix;
pub use stop::StopHandle;
