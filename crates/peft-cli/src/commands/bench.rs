//! `peft bench`

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
#[cfg(feature = "serve")]
use clap::Subcommand;
use llama_burn::{LlamaConfig, hub};
use peft_learner::bench::{self, BenchConfig, BenchMethod, BenchReport};
use peft_learner::estimate::{Estimate, Planned};

#[cfg(feature = "serve")]
use super::bench_serve::BenchServe;
use super::estimate;
use crate::failure::{Failure, Result};
use crate::model_args::{DeviceArgs, DtypeArgs};
use crate::output::{self, count};

const EXAMPLE: &str = "\
Example: what a LoRA step costs, with weights made up from the model's config.json
  peft bench --model models/smollm2 --random --method lora --batch 4 --seq 128";

/// Time one training step
///
/// Forward with every token as a label, backward and AdamW, on fixed tokens. One process measures one method, so that
/// the peak of memory is that method's own.
///
/// `peft bench serve` measures serving instead.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Bench {
    #[cfg(feature = "serve")]
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    step: TrainingStep,
}

/// Further measurements.
#[cfg(feature = "serve")]
#[derive(Debug, Subcommand)]
enum Other {
    Serve(BenchServe),
}

impl Bench {
    pub fn run(self) -> Result {
        #[cfg(feature = "serve")]
        if let Some(Other::Serve(serve)) = self.other {
            return serve.run();
        }
        self.step.run()
    }
}

/// One training step.
#[derive(Debug, Args)]
struct TrainingStep {
    /// The model: a Hugging Face directory, or a hub id
    // Required, though not of `peft bench serve`, which is parsed through here.
    #[arg(long, value_name = "DIR|ID", required = true)]
    model: Option<String>,
    /// Read config.json alone and make the weights up
    #[arg(long)]
    random: bool,
    #[arg(long, value_name = "METHOD", required = true, value_parser = BenchMethod::from_str, help = format!("What is trained: {}", BenchMethod::names()))]
    method: Option<BenchMethod>,
    /// Rows of a batch
    #[arg(long, default_value_t = 4, value_name = "B")]
    batch: usize,
    /// Tokens of a row
    #[arg(long, default_value_t = 128, value_name = "S")]
    seq: usize,
    /// Leading tokens of a row that are no targets, as a prompt's; fewer than the row has
    #[arg(long, default_value_t = 0, value_name = "P")]
    prompt: usize,
    /// Steps that are timed
    #[arg(long, default_value_t = 8, value_name = "N")]
    steps: usize,
    /// Steps before them
    #[arg(long, default_value_t = 2, value_name = "W")]
    warmup: usize,
    #[command(flatten)]
    dtype: DtypeArgs,
    /// Run decoder layers again in backward instead of keeping what it needs
    #[arg(long)]
    grad_checkpointing: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Tell the memory that the step takes, and do not run it
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl TrainingStep {
    fn run(self) -> Result {
        let (Some(model), Some(method)) = (&self.model, self.method) else {
            return Err(Failure::new("--model and --method are needed", "`peft bench --help` shows an example"));
        };
        if self.prompt >= self.seq {
            let cause = format!("--prompt {} leaves no target in rows of {} tokens", self.prompt, self.seq);
            return Err(Failure::new(cause, "make --seq larger, or --prompt smaller"));
        }
        let device = self.device.open()?;
        // A directory with config.json alone is enough for made-up weights.
        let model: PathBuf = hub::resolve(model, None)?;
        if self.dry_run {
            return self.estimate(&model, method);
        }
        let dtype = self.dtype.of(&model)?;
        let report = bench::run(&BenchConfig {
            model,
            random: self.random,
            method,
            batch: self.batch,
            seq: self.seq,
            prompt: self.prompt,
            steps: self.steps,
            warmup: self.warmup,
            dtype,
            quantize: self.dtype.options()?.quantize,
            gradient_checkpointing: self.grad_checkpointing,
            device,
            device_name: self.device.device.to_string(),
        })?;
        if self.json { output::json(&report) } else { self.show(&report) }
    }

    fn estimate(&self, dir: &Path, method: BenchMethod) -> Result {
        let adapter = method.adapter(self.steps).ok_or_else(|| {
            Failure::new("--dry-run is for training an adapter", "give one of the adapter methods, such as lora")
        })?;
        let config = LlamaConfig::from_dir(dir)?;
        let (stored, quantize) = estimate::weights(dir, self.dtype.options()?.quantize)?;
        let memory = Estimate::of(&Planned {
            model: &config,
            stored,
            adapter: Some(&adapter),
            dtype: estimate::dtype(self.dtype.dtype, &config),
            quantize: &quantize,
            batch: self.batch,
            seq: self.seq,
            gradient_checkpointing: self.grad_checkpointing,
        })?;
        if self.json { output::json(&memory) } else { estimate::show(&memory) }
    }

    fn show(&self, report: &BenchReport) -> Result {
        let BenchReport { step_ms, tokens_per_s, peak_rss_mb, first_loss, last_loss, .. } = report;
        output::line(format_args!("step        {step_ms:.1} ms (median of {})", self.steps))?;
        output::line(format_args!("tokens/s    {tokens_per_s:.0}"))?;
        output::line(format_args!("peak memory {peak_rss_mb:.0} MiB"))?;
        output::line(format_args!("trainable   {}", count(report.trainable)))?;
        output::line(format_args!("loss        {first_loss:.4} → {last_loss:.4}"))
    }
}
