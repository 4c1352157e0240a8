//! Times one training step and prints the figures as JSON:
//! `cargo run --release --example bench_step -- MODEL METHOD [BATCH SEQ STEPS WARMUP]`

use std::error::Error;

use burn::tensor::{Device, FloatDType};
use peft_learner::bench::{BenchConfig, run};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, method, sizes @ ..] = args.as_slice() else {
        return Err("usage: bench_step MODEL METHOD [BATCH SEQ STEPS WARMUP]".into());
    };
    let size = |i: usize, default: usize| sizes.get(i).map_or(Ok(default), |s| s.parse());
    let report = run(&BenchConfig {
        model: model.into(),
        random: std::env::var_os("RANDOM_WEIGHTS").is_some(),
        method: method.parse()?,
        batch: size(0, 4)?,
        seq: size(1, 128)?,
        steps: size(2, 6)?,
        warmup: size(3, 2)?,
        dtype: FloatDType::F32,
        device: Device::flex(),
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
