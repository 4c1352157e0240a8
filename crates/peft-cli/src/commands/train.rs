//! `peft train`

use std::path::{Path, PathBuf};

use burn::data::dataset::Dataset;
use clap::Args;
use peft_learner::config::{DataConfig, RunConfig};
use peft_learner::data::{DataFile, EncodeReport, Part, RowOptions, Valid};
use peft_learner::device::DeviceName;
use peft_learner::from_config::ConfiguredRun;
use peft_learner::report::Metrics;
use peft_learner::train::{Existing, Report};
use serde_json::{Map, Value, json};

use crate::failure::Result;
use crate::model_args::object;
use crate::output::{self, quoted};

const EXAMPLE: &str = r#"Example: a shorter run of the same file
  peft train run.toml --set training.max_steps=20 --set output=runs/short

run.toml (what is left out has its default; the keys are PEFT's and Transformers')
  output = "runs/mine"

  [model]
  path = "models/smollm2"

  [adapter]
  peft_type = "LORA"
  r = 16
  lora_alpha = 32
  target_modules = ["q_proj", "k_proj", "v_proj", "o_proj"]

  [data]
  train = "train.jsonl"            # {"prompt": "...", "completion": "..."} a line; docs/data.md has all formats
  valid = "valid.jsonl"            # or a share of the rows: 0.1
  max_length = 512

  [training]
  max_steps = 200                  # or num_train_epochs
  per_device_train_batch_size = 4
  learning_rate = 2e-4             # docs/training.md has all keys"#;

/// Fine-tune a model as a configuration file says
///
/// Writes the adapter, metrics.jsonl, loss.svg and checkpoints into the file's `output`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Train {
    /// The run's configuration
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Change a key of the file, such as training.max_steps=20
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the newest checkpoint in the output folder
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace the run in the output folder
    #[arg(long)]
    overwrite: bool,
    /// Show a bar rather than the dashboard, also in a terminal
    #[arg(long)]
    no_dashboard: bool,
    /// cpu, cuda, cuda:N, rocm, rocm:N, metal, vulkan or webgpu; several CUDA GPUs as cuda:0,cuda:1
    #[arg(long, default_value = "cpu", value_name = "DEVICE", value_delimiter = ',')]
    device: Vec<DeviceName>,
    /// Evaluate on a file, or on a share of the training rows, such as 0.1
    #[arg(long, value_name = "FILE|SHARE")]
    valid: Option<String>,
    /// Variables of the chat template as JSON, such as '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

impl Train {
    pub fn run(self) -> Result {
        let devices = self.device.iter().map(|device| device.open()).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut set = self.set;
        // A number is one in TOML, and anything else a string.
        set.extend(self.valid.map(|valid| format!("data.valid={valid}")));
        let mut config = RunConfig::load(&self.config, &set)?;
        config.data.rows.chat_template_kwargs.extend(self.chat_template_kwargs.unwrap_or_default());
        let existing = match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        };
        let ConfiguredRun { finetune, train, warnings, .. } =
            ConfiguredRun::load(&config, existing, &devices, |text| output::note(text))?;
        // Before: what is wrong with the data is best known before hours of training.
        warnings.iter().for_each(output::warn);
        let finetune = finetune.dashboard(!self.json && !self.no_dashboard).stop_on_signals();
        let (_, report) = finetune.run(&config.output)?;
        if self.json { output::json(&to_json(&config, &report, &train, &warnings)) } else { show(&config, &report) }
    }
}

/// The losses of the first and the last step, and of the last evaluation.
pub fn losses(metrics: &[Metrics]) -> (Option<f64>, Option<f64>, Option<f64>) {
    let mut train = metrics.iter().filter_map(|m| if let Metrics::Train(r) = m { Some(r.loss) } else { None });
    let valid = metrics.iter().rev().find_map(|m| if let Metrics::Valid(r) = m { Some(r.loss) } else { None });
    let first = train.next();
    (first, train.next_back().or(first), valid)
}

fn to_json(config: &RunConfig, report: &Report, train: &EncodeReport, warnings: &[String]) -> Value {
    let (first, last, valid) = losses(&report.metrics);
    json!({
        "output": config.output,
        "adapter": report.adapter,
        "steps": report.steps,
        "resumed_from": report.resumed_from,
        "first_loss": first,
        "loss": last,
        "valid_loss": valid,
        "trainable_parameters": report.parameters.trainable,
        "all_parameters": report.parameters.all,
        "rows": train.rows,
        "truncated_rows": train.truncated,
        "dropped_rows": train.dropped_without_target,
        "tokens": train.tokens,
        "target_tokens": train.target_tokens,
        "ranks": report.ranks,
        "seconds": report.seconds,
        "warnings": warnings,
    })
}

fn show(config: &RunConfig, report: &Report) -> Result {
    let (steps, before, seconds) = (report.steps, report.resumed_from, report.seconds);
    let losses = match losses(&report.metrics) {
        (Some(first), Some(last), Some(valid)) => format!(": loss {first:.4} → {last:.4}, validation {valid:.4}"),
        (Some(first), Some(last), None) => format!(": loss {first:.4} → {last:.4}"),
        _ => String::new(),
    };
    let did = match before {
        0 => format!("{steps} steps in {seconds:.1} s"),
        _ if before == steps => format!("all {steps} steps were done before"),
        _ => format!("{} steps after the {before} there were, in {seconds:.1} s", steps - before),
    };
    output::line(format_args!("\n{did}{losses}\n"))?;
    let output = &config.output;
    let adapter = output.join("adapter");
    output::line(format_args!("  adapter      {}", adapter.display()))?;
    output::line(format_args!("  checkpoints  {}", output.join("checkpoints").display()))?;
    output::line(format_args!("  metrics      {}", output.join("metrics.jsonl").display()))?;
    output::line(format_args!("  curves       {}", output.join("loss.svg").display()))?;
    if let Some(ranks) = &report.ranks {
        output::line(format_args!("  ranks        {}", ranks.display()))?;
    }
    let peft = output::program();
    let (model, adapter) = (quoted(&config.model.path), quoted(adapter.to_string_lossy()));
    match example_prompt(&config.data) {
        Some(prompt) => {
            output::line(format_args!("\nTalk to it:\n  {peft} generate --model {model} --adapter {adapter} {prompt}"))
        }
        None => {
            let (valid, train) = (config.data.valid.as_ref(), config.data.train.first());
            let data = match (valid, train) {
                (Some(Valid::Sources(sources)), _) => sources.first().map(ToString::to_string),
                (_, train) => train.map(ToString::to_string),
            };
            let (data, file) = (quoted(data.unwrap_or_default()), quoted(output.join("config.toml").to_string_lossy()));
            output::line(format_args!(
                "\nMeasure it:\n  {peft} eval --model {model} --adapter {adapter} --data {data} --config {file}"
            ))
        }
    }
}

/// The options that ask as the first row to train on does; `None` where it holds no text, or is not at hand at once.
fn example_prompt(data: &DataConfig) -> Option<String> {
    const LONG: usize = 200;
    const LARGE: u64 = 16 << 20;
    let path = data.train.first().map(|source| Path::new(&source.path))?;
    if data.rows != RowOptions::default() || std::fs::metadata(path).ok().filter(|file| file.is_file())?.len() > LARGE {
        return None;
    }
    let row = Value::Object(DataFile::open(path, Part::Train).ok()?.get(0).ok()?);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (prompt, chat) = if let Some(messages) = row.get("messages").and_then(Value::as_array) {
        (messages.iter().find(|m| m["role"] == "user").and_then(|m| text(&m["content"]))?, " --chat")
    } else if let Some(instruction) = row.get("instruction").and_then(Value::as_str) {
        (peft_learner::data::alpaca_prompt(instruction, row.get("input").and_then(Value::as_str)), "")
    } else if let Some(prompt) = row.get("prompt").and_then(text) {
        (prompt, "")
    } else {
        let words = row.get("text").and_then(text)?;
        (words.split_whitespace().take(5).collect::<Vec<_>>().join(" "), "")
    };
    let prompt = if prompt.len() > 2 * LONG || prompt.is_empty() { "Hello".to_owned() } else { prompt };
    Some(format!("--prompt {}{chat}", quoted(prompt)))
}
