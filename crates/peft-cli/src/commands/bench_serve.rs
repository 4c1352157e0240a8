//! `peft bench serve`

use std::path::PathBuf;

use clap::Args;
use llama_burn::{Llama, LlamaConfig, hub};
use peft_serve::bench::{Load, LoadReport, MadeUp, Percentiles, StepReport, run_load, run_steps};
use peft_serve::{EngineConfig, Served};

use crate::failure::Result;
use crate::model_args::{DeviceArgs, DtypeArgs};
use crate::output;
use crate::size::size;

const EXAMPLE: &str = "\
Examples:
  peft bench serve --model models/smollm2 --random --steps 20
  peft bench serve --model models/smollm2 --adapters 1000 --skew 1 --rate 4 --requests 200";

/// Time serving: steps of many adapters over steps of the base, or a load
///
/// With --steps, the time of a step of --rows rows, each with an adapter of its own, over one without adapters. Otherwise
/// requests that come at --rate whether or not they are answered in time.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct BenchServe {
    /// The base: a Hugging Face directory, or a hub id
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// Read config.json alone and make the weights up
    #[arg(long)]
    random: bool,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Methods of the adapters, which are made up: lora, dora, adalora, vera, ia3
    #[arg(long, value_delimiter = ',', default_value = "lora,dora,adalora,vera,ia3", value_parser = method)]
    methods: Vec<MadeUp>,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 64, value_name = "N")]
    prompt: usize,
    /// Measure so many steps instead of a load
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Rows of a step
    #[arg(long, default_value_t = 64, value_name = "N")]
    rows: usize,
    /// Adapters that requests choose among; 0 has them all from the base
    #[arg(long, default_value_t = 64, value_name = "N")]
    adapters: usize,
    /// The exponent of the power law by which requests choose: 0 chooses all adapters alike
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    skew: f64,
    /// Requests of the load
    #[arg(long, default_value_t = 64, value_name = "N")]
    requests: usize,
    /// Requests in a second
    #[arg(long, default_value_t = 2.0, value_name = "X")]
    rate: f64,
    /// 1 has requests come at random, less in bursts, more evenly
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    burstiness: f64,
    /// Tokens of an answer
    #[arg(long, default_value_t = 32, value_name = "N")]
    answer: usize,
    /// A request is good whose first token comes in so many milliseconds
    #[arg(long, default_value_t = 1000.0, value_name = "MS")]
    good_first_token: f64,
    /// And whose further tokens take so many each
    #[arg(long, default_value_t = 200.0, value_name = "MS")]
    good_per_token: f64,
    /// Seed of what is drawn
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Requests that run together
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_batch: usize,
    /// Memory for keys and values
    #[arg(long, default_value = "2GB", value_name = "SIZE", value_parser = size)]
    cache_memory: usize,
    /// Memory for adapters
    #[arg(long, default_value = "4GB", value_name = "SIZE", value_parser = size)]
    adapter_memory: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn method(name: &str) -> std::result::Result<MadeUp, String> {
    let known = || MadeUp::ALL.map(MadeUp::name).join(", ");
    MadeUp::named(name).ok_or_else(|| format!("there are {}", known()))
}

impl BenchServe {
    pub fn run(self) -> Result {
        let device = self.device.open()?;
        let dir: PathBuf = hub::resolve(&self.model, None)?;
        let model = if self.random {
            Llama::random_on_device(LlamaConfig::from_dir(&dir)?, self.seed, self.dtype.of(&dir)?, &device)
        } else {
            Llama::load(&dir, &self.dtype.options()?, &device)?.0
        };
        let base = Served::new("base", model, None);
        if let Some(steps) = self.steps {
            let reports = run_steps(&base, &self.methods, self.rows, self.prompt, steps)?;
            return if self.json { output::json(&serde_json::json!({"steps": reports})) } else { show_steps(&reports) };
        }
        let load = Load {
            methods: self.methods,
            adapters: self.adapters,
            skew: self.skew,
            requests: self.requests,
            rate: self.rate.max(1e-6),
            burstiness: self.burstiness.max(1e-3),
            prompt: self.prompt,
            answer: self.answer,
            good_first_token: self.good_first_token,
            good_per_token: self.good_per_token,
            seed: self.seed,
            adapter_memory: self.adapter_memory,
        };
        let engine = EngineConfig {
            max_batch: self.max_batch,
            max_queue: self.requests,
            cache_memory: self.cache_memory,
            ..EngineConfig::default()
        };
        let report = run_load(&base, &load, engine)?;
        if self.json { output::json(&report) } else { show_load(&report) }
    }
}

fn show_steps(reports: &[StepReport]) -> Result {
    output::line("method    rows   ms a step   over base   adapters       shared   ms to load")?;
    for one in reports {
        output::line(format_args!(
            "{:<8} {:>5} {:>11.2} {:>11.3} {:>10} {:>12} {:>12.2}",
            one.method,
            one.rows,
            one.milliseconds,
            one.over_base,
            output::bytes(one.adapter_bytes).to_string(),
            output::bytes(one.shared_bytes).to_string(),
            one.load_milliseconds,
        ))?;
    }
    Ok(())
}

fn show_load(report: &LoadReport) -> Result {
    output::line(format_args!(
        "{} answered, {} failed in {:.1} s: {:.1} tokens/s, {:.2} good requests/s, {} loads, {} evictions",
        report.answered,
        report.failed,
        report.seconds,
        report.tokens_per_second,
        report.goodput,
        report.loads,
        report.evictions,
    ))?;
    output::line("milliseconds                p50        p90        p99")?;
    let line = |what: &str, at: &Percentiles| {
        output::line(format_args!("{what:<22} {:>10.1} {:>10.1} {:>10.1}", at.p50, at.p90, at.p99))
    };
    line("to the first token", &report.time_to_first_token)?;
    line("for each further one", &report.time_per_token)?;
    line("between tokens", &report.inter_token_latency)?;
    line("to the end", &report.end_to_end)?;
    output::line(format_args!(
        "{:<22} {:>10.4} {:>10.4} {:>10.4}",
        "to a resident adapter", report.switch.p50, report.switch.p90, report.switch.p99
    ))?;
    output::line(format_args!("{} adapters in memory: {}", report.resident, output::bytes(report.adapter_bytes)))?;
    match report.late_over_early {
        Some(ratio) => {
            output::line(format_args!("the last 100 tokens took {ratio:.2} of the time of tokens 100 to 200"))
        }
        None => Ok(()),
    }
}
