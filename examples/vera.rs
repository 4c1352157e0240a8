//! VeRA: two small vectors a projection around one random pair that the whole model shares.
//!
//! ```text
//! cargo run --release --example vera
//! ```

mod island;

use peft_burn::{PeftConfig, TargetModules, VeraConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target_modules = TargetModules::AllLinear;
    let config = PeftConfig::Vera(VeraConfig { r: 256, target_modules, ..VeraConfig::default() });
    island::run("vera", &config, 4e-2)
}
