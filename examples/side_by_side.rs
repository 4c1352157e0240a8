//! The five methods side by side on one task: what each trains, stores, takes, learns and forgets.
//!
//! ```text
//! cargo run --release --example side_by_side
//! ```
//!
//! Every method runs in a process of its own, so that the peak of memory is its own. Prints a Markdown table.

mod island;

use std::process::{Command, Stdio};

use island::Outcome;
use peft_burn::{AdaLoraConfig, DeviceName, Ia3Config, LoraConfig, ModuleNames, PeftConfig, TargetModules, VeraConfig};
use peft_learner::bench::peak_rss_mb;

/// Each with the learning rate that it learns well with: the fewer numbers a method trains, the larger the steps.
fn methods() -> [(&'static str, PeftConfig, f64); 5] {
    let target_modules = TargetModules::AllLinear;
    let lora = LoraConfig { r: 16, lora_alpha: 32.0, target_modules, ..LoraConfig::default() };
    let target_modules = TargetModules::AllLinear;
    let adalora = AdaLoraConfig {
        init_r: 24,
        target_r: 16,
        tinit: 40,
        tfinal: 133,
        delta_t: 13,
        lora_alpha: 32.0,
        target_modules: target_modules.clone(),
        ..AdaLoraConfig::default()
    };
    // The shared pair is drawn again from its key on loading, as PEFT does: the file holds what was trained alone.
    let vera =
        VeraConfig { r: 256, save_projection: false, target_modules: target_modules.clone(), ..VeraConfig::default() };
    let feedforward_modules = Some(ModuleNames::list(["down_proj"]));
    let ia3 = Ia3Config { target_modules, feedforward_modules, ..Ia3Config::default() };
    let dora = LoraConfig { use_dora: true, ..lora.clone() };
    [
        ("lora", PeftConfig::Lora(lora), 3e-3),
        ("dora", PeftConfig::Lora(dora), 3e-3),
        ("adalora", PeftConfig::AdaLora(adalora), 4e-2),
        ("vera", PeftConfig::Vera(vera), 4e-2),
        ("ia3", PeftConfig::Ia3(ia3), 4e-2),
    ]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let device_name = DeviceName::take_from(&mut arguments)?;
    let device = device_name.open()?;
    if let Some(wanted) = arguments.first() {
        let found = methods().into_iter().find(|(name, ..)| name == wanted);
        let (name, config, learning_rate) = found.ok_or_else(|| format!("there is no method {wanted}"))?;
        let outcome = island::fine_tune(name, &config, learning_rate, &device)?;
        println!("{}", serde_json::to_string(&(outcome, peak_rss_mb()))?);
        return Ok(());
    }
    let (task, kept) = island::base_scores(&device)?;
    println!("| method | trained parameters | file (KB) | step (ms) | peak memory (MB) | new task | old questions |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    println!("| base | | | | | {:.1}% | {:.1}% |", 100.0 * task, 100.0 * kept);
    for (name, ..) in methods() {
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
