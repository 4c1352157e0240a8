//! What a run came to: metrics, pictures, progress.

mod epochs;
mod loss_plot;
mod metrics;
mod progress;
mod rank_plot;
mod step_metric;

pub use epochs::EpochLines;
pub use loss_plot::write_loss_plot;
pub use metrics::{EvalReport, Metrics, MetricsWriter, StepReport, read_metrics, truncate_after};
pub use progress::Progress;
pub use rank_plot::write_rank_plot;
pub use step_metric::{StepMetric, StepOf};
