//! The common parts of the method examples: the small base of `datasets/world`, the task it is taught, and how well a
//! model does on the task and on what it knew before.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use peft_burn::PeftConfig;
use peft_learner::base::Base;
use peft_learner::config::{AdapterSource, DataConfig, ModelConfig, RunConfig, TrainingConfig};
use peft_learner::data::Example;
use peft_learner::device::DeviceName;
use peft_learner::evaluate::{answer, exact_match};
use peft_learner::from_config::ConfiguredRun;
use peft_learner::report::Metrics;
use peft_learner::train::Existing;
use serde::{Deserialize, Serialize};

/// The folder of the embedded model.
pub const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/world");
/// Optimiser steps of a run.
pub const STEPS: usize = 400;
/// Rows that are answered at a time.
const BATCH: usize = 60;

/// The results of one method.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub method: String,
    pub trainable_parameters: usize,
    /// Size of `adapter_model.safetensors`.
    pub file_bytes: u64,
    /// Median over the run.
    pub step_ms: f64,
    /// Share of the new task's held-out rows that are answered exactly right.
    pub task: f64,
    /// Share of the questions about the island, which the base was trained on, that are answered exactly right.
    pub kept: f64,
}

/// How well the base does on its own: on the new task, and on what it knows.
#[allow(dead_code, reason = "serve_many asks another thing")]
pub fn base_scores(device: &Device) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let base = load(device)?;
    Ok((score(&base, "task-valid.jsonl")?, score(&base, "world-valid.jsonl")?))
}

/// Teaches the base the courier's task with one adapter: 400 steps of 16 rows. Leaves it in `runs/METHOD/adapter`.
pub fn fine_tune(
    method: &str,
    adapter: &PeftConfig,
    learning_rate: f64,
    device: &Device,
) -> Result<Outcome, Box<dyn std::error::Error>> {
    let output = Path::new("runs").join(method);
    let config = RunConfig {
        output: output.clone(),
        seed: 42,
        model: ModelConfig::new(BASE),
        adapter: AdapterSource::Config(adapter.to_json()),
        data: DataConfig {
            max_length: 128,
            ..DataConfig::files(world("task-train.jsonl"), Some(world("task-valid.jsonl")))
        },
        training: TrainingConfig {
            max_steps: Some(STEPS),
            per_device_train_batch_size: 16,
            learning_rate,
            warmup_steps: 20,
            eval_steps: 100,
            save_steps: STEPS,
            ..TrainingConfig::default()
        },
    };
    let ConfiguredRun { finetune, text, dir, .. } =
        ConfiguredRun::new(&config, load(device)?, Existing::Overwrite, &[], |_| {})?;
    let (model, report) = finetune.run(&output)?;
    let base = Base { model, text, dir, warnings: Vec::new() };
    let mut seconds: Vec<f64> = (report.metrics.iter())
        .filter_map(|line| match line {
            Metrics::Train(step) => Some(step.tokens as f64 / step.tokens_per_second),
            _ => None,
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    Ok(Outcome {
        method: method.to_owned(),
        trainable_parameters: report.parameters.trainable,
        file_bytes: std::fs::metadata(output.join("adapter/adapter_model.safetensors"))?.len(),
        step_ms: 1000.0 * seconds.get(seconds.len() / 2).copied().unwrap_or(0.0),
        task: score(&base, "task-valid.jsonl")?,
        kept: score(&base, "world-valid.jsonl")?,
    })
}

/// [`fine_tune`] for a program of one method, on the device that its `--device` names: prints what it came to.
#[allow(dead_code, reason = "side_by_side prints a table instead, serve_many answers")]
pub fn run(method: &str, adapter: &PeftConfig, learning_rate: f64) -> Result<(), Box<dyn std::error::Error>> {
    let device = DeviceName::take_from(&mut std::env::args().collect())?.open()?;
    let (task, kept) = base_scores(&device)?;
    let outcome = fine_tune(method, adapter, learning_rate, &device)?;
    println!("{method}: {} trained parameters, {} bytes on disk", outcome.trainable_parameters, outcome.file_bytes);
    println!("the new task, exactly right:  {:5.1}% before, {:5.1}% after", 100.0 * task, 100.0 * outcome.task);
    println!("old questions, exactly right: {:5.1}% before, {:5.1}% after", 100.0 * kept, 100.0 * outcome.kept);
    println!("the adapter is in runs/{method}/adapter");
    Ok(())
}

fn world(file: &str) -> PathBuf {
    Path::new(BASE).join(file)
}

fn load(device: &Device) -> Result<Base, Box<dyn std::error::Error>> {
    Ok(Base::load(BASE, ModelConfig::new(BASE).load_options(), device)?)
}

fn score(base: &Base, file: &str) -> Result<f64, Box<dyn std::error::Error>> {
    let (examples, _): (Vec<Example>, _) = base.examples(world(file), 128)?;
    Ok(exact_match(&answer(&base.model, &examples, BATCH, &base.eos_ids(), |_| {})?))
}
