//! The engine's counters for a Prometheus server, under vLLM's names where they exist.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use llama_burn::Finish;

/// Seconds by which times are counted.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 60.0];

type Number = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    finished_reason: &'static str,
}

/// Counts and times of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(crate) running: Gauge,
    pub(crate) waiting: Gauge,
    pub(crate) cache_use: Number,
    pub(crate) prompt_tokens: Counter,
    pub(crate) generation_tokens: Counter,
    pub(crate) preemptions: Counter,
    ended: Family<Ended, Counter>,
    pub(crate) first_token: Histogram,
    pub(crate) between_tokens: Histogram,
    pub(crate) whole: Histogram,
    pub(crate) adapter_hits: Counter,
    pub(crate) adapter_loads: Counter,
    pub(crate) adapter_evictions: Counter,
    pub(crate) adapter_bytes: Gauge,
    pub(crate) adapter_shared_bytes: Gauge,
    pub(crate) adapters_registered: Gauge,
    pub(crate) adapters_resident: Gauge,
    pub(crate) adapter_leases: Gauge,
    pub(crate) step: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        macro_rules! metric {
            ($metric:expr, $name:expr, $help:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let times = || Histogram::new(SECONDS);
        Self {
            running: metric!(Gauge::default(), "vllm:num_requests_running", "Requests in the batch"),
            waiting: metric!(Gauge::default(), "vllm:num_requests_waiting", "Requests that wait"),
            cache_use: metric!(
                Number::default(),
                "vllm:kv_cache_usage_perc",
                "Blocks of keys and values in use; 1 is all"
            ),
            prompt_tokens: metric!(Counter::default(), "vllm:prompt_tokens", "Tokens of prompts that were run"),
            generation_tokens: metric!(Counter::default(), "vllm:generation_tokens", "Tokens that were generated"),
            preemptions: metric!(
                Counter::default(),
                "vllm:num_preemptions",
                "Requests that were set back for lack of blocks"
            ),
            ended: metric!(Family::default(), "vllm:request_success", "Requests that ended, by the reason"),
            first_token: metric!(times(), "vllm:time_to_first_token_seconds", "From a request to its first token"),
            between_tokens: metric!(times(), "vllm:inter_token_latency_seconds", "From a token to the next one"),
            whole: metric!(times(), "vllm:e2e_request_latency_seconds", "From a request to its end"),
            adapter_hits: metric!(Counter::default(), "peft:adapter_hits", "Requests whose adapter was in memory"),
            adapter_loads: metric!(Counter::default(), "peft:adapter_loads", "Adapters that were loaded"),
            adapter_evictions: metric!(
                Counter::default(),
                "peft:adapter_evictions",
                "Adapters put out of memory for room"
            ),
            adapter_bytes: metric!(Gauge::default(), "peft:adapter_bytes", "Bytes of adapters in memory"),
            adapter_shared_bytes: metric!(Gauge::default(), "peft:adapter_shared_bytes", "Bytes that adapters share"),
            adapters_registered: metric!(Gauge::default(), "peft:adapters_registered", "Adapters that are known"),
            adapters_resident: metric!(Gauge::default(), "peft:adapters_resident", "Adapters in memory"),
            adapter_leases: metric!(Gauge::default(), "peft:adapter_leases", "Requests that use an adapter"),
            step: metric!(times(), "peft:step_seconds", "A step of the whole batch"),
            registry,
        }
    }
}

impl Metrics {
    pub(crate) fn ended(&self, reason: Option<Finish>) {
        let finished_reason = reason.map_or("abort", Finish::name);
        self.ended.get_or_create(&Ended { finished_reason }).inc();
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // It fails only when the writer does.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
