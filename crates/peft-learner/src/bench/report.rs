//! The results of a measurement.

use serde::Serialize;

use super::method::BenchMethod;

/// The results of a measurement. The keys are those of PEFT's own measurement, so that the two can be compared by machine.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// `peft-burn`.
    #[serde(rename = "impl")]
    pub implementation: &'static str,
    /// The method.
    pub method: BenchMethod,
    /// The name of the device.
    pub device: String,
    /// The base's dtype, `f32` or `bf16`.
    pub dtype: String,
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Trained numbers.
    pub trainable: usize,
    /// Median of the timed steps, in milliseconds.
    pub step_ms: f64,
    /// Each timed step, in milliseconds.
    pub steps_ms: Vec<f64>,
    /// Tokens per second at the median.
    pub tokens_per_s: f64,
    /// The most memory that the process held, in MiB; 0 where the system does not say.
    pub peak_rss_mb: f64,
    /// The most device memory that Burn held for reuse at the end of a step, in MiB: all that the steps needed at once, in
    /// whole pages. 0 on the CPU. (PyTorch's `max_memory_allocated`, which the reference reports, is without the pages.)
    pub peak_gpu_mb: f64,
    /// Seconds from the start to the first step.
    pub load_s: f64,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Threads that computed.
    pub threads: usize,
}
