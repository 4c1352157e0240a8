//! The methods side by side on one task: what each trains, stores, takes, learns and forgets.
//!
//! ```text
//! cargo run --release --example side_by_side
//! ```
//!
//! Every method runs in a process of its own, so that the peak of memory is its own. Prints a Markdown table.

mod island;

use std::process::{Command, Stdio};

use island::Outcome;
use peft_burn::PeftConfig;
use peft_burn::methods::Preset;
use peft_learner::bench::peak_rss_mb;
use peft_learner::device::DeviceName;

/// Optimiser steps, from which AdaLoRA's phases follow.
const STEPS: usize = 400;

fn methods() -> Vec<Preset<PeftConfig>> {
    let mut all = PeftConfig::presets(STEPS);
    for preset in &mut all {
        // The shared pair is drawn again from its key on loading, as PEFT does: the file holds what was trained alone.
        if let PeftConfig::Vera(vera) = &mut preset.config {
            vera.save_projection = false;
        }
    }
    all
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let device_name = DeviceName::take_from(&mut arguments)?;
    let device = device_name.open()?;
    if let Some(wanted) = arguments.first() {
        let found = methods().into_iter().find(|preset| preset.name == wanted);
        let Preset { name, config, learning_rate } = found.ok_or_else(|| format!("there is no method {wanted}"))?;
        let outcome = island::fine_tune(name, &config, learning_rate, &device)?;
        println!("{}", serde_json::to_string(&(outcome, peak_rss_mb()))?);
        return Ok(());
    }
    let (task, kept) = island::base_scores(&device)?;
    println!("| method | trained parameters | file (KB) | step (ms) | peak memory (MB) | new task | old questions |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    println!("| base | | | | | {:.1}% | {:.1}% |", 100.0 * task, 100.0 * kept);
    for Preset { name, .. } in methods() {
        let mut child = Command::new(std::env::current_exe()?);
        child.args([name, "--device", &device_name.to_string()]);
        let child = child.stderr(Stdio::inherit()).output()?;
        if !child.status.success() {
            return Err(format!("{name} failed").into());
        }
        let (outcome, peak): (Outcome, f64) = serde_json::from_slice(&child.stdout)?;
        println!(
            "| {name} | {} | {:.0} | {:.0} | {peak:.0} | {:.1}% | {:.1}% |",
            outcome.trainable_parameters,
            outcome.file_bytes as f64 / 1024.0,
            outcome.step_ms,
            100.0 * outcome.task,
            100.0 * outcome.kept
        );
    }
    Ok(())
}
