//! Numbers of a step as metrics of Burn's: for the dashboard, and for training loops of one's own.

use std::fmt;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, TensorReadError};
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry, SerializedEntry,
};

use super::metrics::StepReport;

/// A [`StepReportMetric`]'s view of a micro-batch: the report of the step that it is a part of, once that is made.
#[derive(Clone, Debug, Default)]
pub struct StepOf(pub Arc<OnceLock<StepReport>>);

type Value = Arc<dyn Fn(&StepReport) -> Option<f64> + Send + Sync>;

/// One number of each optimiser step.
///
/// ```
/// use peft_learner::report::StepReportMetric;
/// let metrics = (StepReportMetric::learning_rate(), StepReportMetric::grad_norm(), StepReportMetric::live_triplets());
/// # let _ = metrics;
/// ```
#[derive(Clone)]
pub struct StepReportMetric {
    name: MetricName,
    unit: Option<String>,
    precision: usize,
    higher_is_better: bool,
    value: Value,
    state: NumericMetricState,
    /// Whether the micro-batch seen last ended a step.
    fresh: bool,
}

impl fmt::Debug for StepReportMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepReportMetric").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StepReportMetric {
    /// The number that `value` takes from a step's report, under a name of its own. Lower is better.
    pub fn new(name: &str, value: impl Fn(&StepReport) -> Option<f64> + Send + Sync + 'static) -> Self {
        Self {
            name: Arc::new(name.to_owned()),
            unit: None,
            precision: 4,
            higher_is_better: false,
            value: Arc::new(value),
            state: NumericMetricState::new(),
            fresh: false,
        }
    }

    fn unit(self, unit: &str) -> Self {
        Self { unit: Some(unit.to_owned()), ..self }
    }

    fn precision(self, precision: usize) -> Self {
        Self { precision, ..self }
    }

    /// The mean over the step's target tokens, in nats, and any regulariser.
    pub fn loss() -> Self {
        Self::new("Loss", |report| Some(report.loss))
    }

    /// The learning rate.
    pub fn learning_rate() -> Self {
        Self::new("Learning Rate", |report| Some(report.learning_rate)).precision(7)
    }

    /// The norm of all gradients together, before clipping.
    pub fn grad_norm() -> Self {
        Self::new("Gradient Norm", |report| Some(report.grad_norm))
    }

    /// Tokens a second, padding excepted.
    pub fn tokens_per_second() -> Self {
        Self { higher_is_better: true, ..Self::new("Tokens/s", |report| Some(report.tokens_per_second)).precision(0) }
    }

    /// AdaLoRA: triplets allowed.
    pub fn budget() -> Self {
        Self::new("Budget", |report| report.budget.map(|n| n as f64)).precision(0)
    }

    /// AdaLoRA: entries of all E that are not zero.
    pub fn live_triplets() -> Self {
        Self::new("Live Triplets", |report| report.live_triplets.map(|n| n as f64)).precision(0)
    }

    /// The memory that the process holds, and what Burn holds of `device`'s own; nothing where the system does not say.
    pub fn memory(device: Device) -> Self {
        let held = move |_: &StepReport| {
            let device = device.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved);
            let held = resident().unwrap_or(0) + device;
            (held > 0).then_some(held as f64 / f64::from(1 << 20))
        };
        Self::new("Memory", held).unit("MiB").precision(0)
    }

    fn format(&self) -> FormatOptions {
        let format = FormatOptions::new(self.name.clone()).precision(self.precision);
        match &self.unit {
            Some(unit) => format.unit(unit),
            None => format,
        }
    }
}

/// Bytes of the process in memory, on Linux.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

impl Metric for StepReportMetric {
    type Input = StepOf;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: self.unit.clone(), higher_is_better: self.higher_is_better }.into()
    }

    fn update(&mut self, item: &StepOf, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        let value = item.0.get().and_then(|report| (self.value)(report));
        self.fresh = value.is_some();
        Ok(match value {
            Some(value) => {
                self.state.update(value, 1);
                self.state.compute_update(self.format())
            }
            // A step's earlier micro-batches come before there is anything to tell.
            None => SerializedEntry::not_available(self.unit.as_deref()),
        })
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
        self.fresh = false;
    }
}

impl Numeric for StepReportMetric {
    fn value(&self) -> Option<NumericEntry> {
        self.fresh.then(|| self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.fresh.then(|| self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::data::dataloader::Progress;

    use super::*;

    #[test]
    fn a_number_is_told_once_its_step_is_made() {
        let metadata = MetricMetadata { progress: Progress::new(1, 2, None), iteration: Some(1), lr: None };
        let mut metric = StepReportMetric::live_triplets();
        let step = StepOf::default();
        assert!(metric.update(&step, &metadata).unwrap().formatted.contains("N/A"));
        assert!(metric.value().is_none());
        step.0.set(StepReport { live_triplets: Some(12), ..StepReport::default() }).unwrap();
        assert!(metric.update(&step, &metadata).unwrap().formatted.contains("12"));
        assert_eq!(metric.value().unwrap().current(), 12.0);
        let memory = StepReportMetric::memory(Device::flex());
        if cfg!(target_os = "linux") {
            assert!((memory.value)(&StepReport::default()).unwrap() > 1.0);
        }
    }
}
