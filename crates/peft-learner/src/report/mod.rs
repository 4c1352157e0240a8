//! Reports of a run: metrics, pictures, progress.

mod dashboard;
mod epochs;
mod loss_plot;
mod metrics;
mod progress;
mod rank_plot;
mod step_report_metric;
#[cfg(all(feature = "tui", unix))]
mod terminal;

pub(crate) use dashboard::dashboard;
pub use epochs::{EpochLines, ShowEpochs};
pub use loss_plot::write_loss_plot;
pub use metrics::{EvalReport, Metrics, MetricsWriter, StepReport, read_metrics, truncate_after};
pub use progress::Progress;
pub use rank_plot::write_rank_plot;
pub use step_report_metric::{StepOf, StepReportMetric};
#[cfg(all(feature = "tui", unix))]
pub(crate) use terminal::restore as restore_terminal;

/// Nothing to restore: there is no dashboard.
#[cfg(not(all(feature = "tui", unix)))]
pub(crate) fn restore_terminal() {}
