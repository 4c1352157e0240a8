//! VeRA: two small vectors a projection around one random pair that the whole model shares.
//!
//! ```text
//! cargo run --release --example vera
//! ```

mod island;

use peft_burn::{PeftConfig, TargetModules, VeraConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target_modules = TargetModules::AllLinear;
    // The shared pair is drawn again from its key on loading: the file holds what was trained alone.
    let config =
        PeftConfig::Vera(VeraConfig { r: 256, save_projection: false, target_modules, ..VeraConfig::default() });
    island::run("vera", &config, 4e-2)
}
