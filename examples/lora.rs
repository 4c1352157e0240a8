//! LoRA: a low-rank pair beside every projection.
//!
//! ```text
//! cargo run --release --example lora
//! ```

mod island;

use peft_burn::{LoraConfig, PeftConfig, TargetModules};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target_modules = TargetModules::AllLinear;
    let config = PeftConfig::Lora(LoraConfig { r: 16, lora_alpha: 32.0, target_modules, ..LoraConfig::default() });
    island::run("lora", &config, 3e-3)
}
