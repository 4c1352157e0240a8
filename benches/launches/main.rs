//! The launches, bytes and reads of a training step on a GPU, for each method.
//!
//! ```text
//! cargo run --features webgpu --example launches -- --device webgpu [--json] [--method NAME] [--names]
//! cargo run --features webgpu --example launches -- --device webgpu --dry-run --model benches/shapes/llama-3.2-1b
//! ```
//!
//! Without `--model`, of a small model that any device runs. `--dry-run` compiles every kernel and runs none of them, so that
//! large shapes can be counted where they could not be computed. `--names` lists the launches of a step by kernel.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use burn::tensor::FloatDType;
use llama_burn::LlamaConfig;
use peft_burn_workspace::counters::{Case, Method, Reads, count, header, row, small_config};
use peft_learner::device::DeviceName;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let device = DeviceName::take_from(&mut arguments).and_then(|name| name.open()).unwrap();
    let mut flag = |name: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.map(|at| arguments.remove(at)).is_some()
    };
    let (json, names, dry_run) = (flag("--json"), flag("--names"), flag("--dry-run"));
    let mut value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.remove(at);
        Some(arguments.remove(at))
    };
    let (method, model, shape) = (value("--method"), value("--model").map(PathBuf::from), value("--shape"));
    let dtype = match value("--dtype").as_deref() {
        None | Some("f32") => FloatDType::F32,
        Some("bf16") => FloatDType::BF16,
        Some("f16") => FloatDType::F16,
        Some(other) => panic!("--dtype {other}: f32, bf16 or f16"),
    };
    assert!(arguments.is_empty(), "unknown: {arguments:?}");
    let small = model.is_none();
    let config = model.map_or_else(small_config, |model| LlamaConfig::from_dir(model).unwrap());
    let batch = match shape {
        Some(shape) => shape.split_once('x').map(|(rows, seq)| [rows.parse().unwrap(), seq.parse().unwrap()]).unwrap(),
        None if small => [2, 32],
        None => [4, 512],
    };
    let rank = if small { 4 } else { 16 };
    Reads::watch();
    let _dry_run = dry_run.then(burn::cubecl::dry_run::DryRun::new);
    if !json {
        println!("{}", header());
    }
    for method in Method::ALL.into_iter().filter(|m| method.as_ref().is_none_or(|name| m.name() == name)) {
        let case = Case { config: config.clone(), method, rank, dtype, batch, depths: [1, 3] };
        let (figures, by_name) = count(&case, &device);
        match json {
            true => println!("{}", serde_json::to_string(&figures).unwrap()),
            false => println!("{}", row(&figures)),
        }
        if names {
            by_name.iter().for_each(|(name, count)| eprintln!("{count:6} {name}"));
        }
    }
}
