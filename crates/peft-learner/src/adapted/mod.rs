//! Any Burn model with an adapter, in Burn's own training loop.
//!
//! [`Adapted`] wraps a model that implements Burn's [`TrainStep`](burn::train::TrainStep) and
//! [`InferenceStep`](burn::train::InferenceStep) in the usual way, and implements both itself: it goes into Burn's
//! [`Learner`](burn::train::Learner) and [`SupervisedTraining`](burn::train::SupervisedTraining) like the model alone,
//! with checkpoints, early stopping, learning rate schedulers, gradient accumulation and metrics.

mod loss;
mod metrics;
mod module;
mod place;
mod shown;
mod step;
mod step_count;
mod steps;
mod watch;
mod wrapper;

pub use metrics::StepMetric;
pub use place::{InLayers, Place};
pub use steps::optimizer_steps;
pub use wrapper::Adapted;
