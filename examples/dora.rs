//! DoRA: LoRA, with the length of every row of the weight trained apart from its direction.
//!
//! ```text
//! cargo run --release --example dora
//! ```

mod island;

use peft_burn::{LoraConfig, PeftConfig, TargetModules};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target_modules = TargetModules::AllLinear;
    let lora = LoraConfig { r: 16, lora_alpha: 32.0, target_modules, ..LoraConfig::default() };
    let config = PeftConfig::Lora(LoraConfig { use_dora: true, ..lora });
    island::run("dora", &config, 3e-3)
}
