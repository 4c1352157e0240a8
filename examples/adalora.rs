//! AdaLoRA: a rank for every projection, found while it trains.
//!
//! ```text
//! cargo run --release --example adalora
//! ```

mod island;

use peft_burn::{AdaLoraConfig, PeftConfig, TargetModules};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target_modules = TargetModules::AllLinear;
    let config = PeftConfig::AdaLora(AdaLoraConfig {
        init_r: 24,
        target_r: 16,
        tinit: 40,
        tfinal: 133,
        delta_t: 13,
        lora_alpha: 32.0,
        target_modules,
        ..AdaLoraConfig::default()
    });
    island::run("adalora", &config, 4e-2)
}
