//! IA3: one factor for every output of attention and every input of the last projection.
//!
//! ```text
//! cargo run --release --example ia3
//! ```

mod island;

use peft_burn::{Ia3Config, ModuleNames, PeftConfig, TargetModules};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target_modules = TargetModules::AllLinear;
    let feedforward_modules = Some(ModuleNames::list(["down_proj"]));
    let config = PeftConfig::Ia3(Ia3Config { target_modules, feedforward_modules, ..Ia3Config::default() });
    island::run("ia3", &config, 4e-2)
}
