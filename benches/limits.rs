//! The limits of this machine, and how near loading and generation come to them.
//!
//! ```text
//! cargo run --release --example limits [-- MODEL [bf16]]
//! ```
//!
//! Matrix products (in the dtype that is named) and memory are measured first. With a model's folder: how long it takes until
//! the model is ready to train and the most memory that takes, as a multiple of the weights; what a token costs with the
//! key-value cache, beside the time in which the weights can be read once; and the least that a LoRA step of 512 tokens can
//! take.
#![allow(missing_docs)]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{DType, Distribution, FloatDType, Tensor, bf16};
use fused_burn::matrix::{Mat, product};
use fused_burn::simd::{sum, vectorized};
use llama_burn::{Generate, GenerateOptions, Llama};
use peft_burn::{LoraConfig, PeftConfig, PeftModel, TargetModules};
use peft_learner::bench::peak_rss_mb;
use peft_learner::device::DeviceName;
use rayon::prelude::*;

const MIB: f64 = 1024.0 * 1024.0;
const ROUNDS: usize = 9;
const TOKENS: usize = 64;

/// The shortest of several runs, in seconds.
fn best(mut f: impl FnMut()) -> f64 {
    let time = |()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    [(); ROUNDS].map(time).into_iter().fold(f64::INFINITY, f64::min)
}

/// Floating-point operations of a product of `[m, k]` and `[k, n]`, in GFLOP/s: Burn's and ours, of which the faster counts.
fn matrix_rate([m, k, n]: [usize; 3], dtype: FloatDType) -> f64 {
    let device = burn::tensor::Device::flex();
    let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let (a, b) = (random([m, k]), random([k, n]));
    let [left, right] = [&a, &b].map(|t| t.to_data().iter::<f32>().collect::<Vec<_>>());
    let [half_left, half_right] = [&left, &right].map(|v| v.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>());
    let seconds = if dtype == FloatDType::BF16 {
        best(|| drop(black_box(product(Mat::half(&half_left, m, k), Mat::half(&half_right, k, n)))))
    } else {
        let ours = best(|| drop(black_box(product(Mat::new(&left, m, k), Mat::new(&right, k, n)))));
        ours.min(best(|| drop(black_box(a.clone().matmul(b.clone()).into_data()))))
    };
    (2 * m * k * n) as f64 / seconds / 1e9
}

/// Bytes read per second by all threads together, in GB/s.
fn bandwidth() -> f64 {
    let values = vec![1.0f32; 128 << 20];
    let seconds = best(|| {
        let total: f32 = (values.par_chunks(1 << 18))
            .map(|part| {
                vectorized(
                    #[inline(always)]
                    || {
                        sum(
                            part.len(),
                            #[inline(always)]
                            |i| part[i],
                        )
                    },
                )
            })
            .sum();
        black_box(total);
    });
    (values.len() * 4) as f64 / seconds / 1e9
}

/// Measurements that need a fresh process: how long loading takes, and its peak of memory.
fn load(folder: &str, dtype: FloatDType) -> Result<Llama, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let mut model = Llama::from_dir(folder, Some(dtype), &DeviceName::Cpu.open()?)?;
    let target_modules = TargetModules::list(["q_proj", "k_proj", "v_proj", "o_proj"]);
    let lora = LoraConfig { r: 16, lora_alpha: 32.0, target_modules, ..LoraConfig::default() };
    model.add_adapter("default", &PeftConfig::Lora(lora), 1)?;
    let model = model.train();
    let weights = model.config().num_parameters() as f64 * DType::from(dtype).size() as f64 / MIB;
    let (seconds, peak) = (start.elapsed().as_secs_f64(), peak_rss_mb());
    println!(
        "ready to train in {seconds:.2} s; peak {peak:.0} MiB, {:.2} of the weights' {weights:.0}",
        peak / weights
    );
    Ok(model)
}

/// Milliseconds for a token after a prompt of 16.
fn decode(model: &Llama) -> Result<f64, Box<dyn std::error::Error>> {
    let prompt: Vec<u32> = (0..16).map(|i| (i * 7919 + 13) % model.config().vocab_size as u32).collect();
    let options = GenerateOptions { max_new_tokens: TOKENS + 1, ..GenerateOptions::default() };
    let mut times = Vec::with_capacity(TOKENS + 1);
    model.generate(&[prompt], &options, |_, _| {
        times.push(Instant::now());
        ControlFlow::Continue(())
    })?;
    let mut steps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
    steps.sort_by(f64::total_cmp);
    Ok(steps[steps.len() / 2])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (dtype, bytes) = match arguments.get(1).map(String::as_str) {
        None | Some("f32") => (FloatDType::F32, 4.0),
        Some("bf16") => (FloatDType::BF16, 2.0),
        Some(other) => return Err(format!("{other}: f32 or bf16").into()),
    };
    // First, while the process holds nothing else.
    let model = arguments.first().map(|folder| load(folder, dtype)).transpose()?;
    let shapes = [[512, 576, 1536], [512, 1536, 576], [512, 2048, 2048], [2048, 2048, 2048]];
    let rates = shapes.map(|shape| matrix_rate(shape, dtype));
    for ([m, k, n], rate) in shapes.into_iter().zip(rates) {
        println!("{m} x {k} x {n} in {dtype:?}: {rate:.0} GFLOP/s");
    }
    let rate = rates.into_iter().fold(0.0, f64::max);
    let bandwidth = bandwidth();
    println!("memory is read at {bandwidth:.1} GB/s");
    let Some(model) = model else { return Ok(()) };
    let parameters = model.config().num_parameters() as f64;
    let flop = 4.0 * parameters * 512.0;
    println!("a step of 512 tokens: {:.3} TFLOP, {:.2} s at the least", flop / 1e12, flop / rate / 1e9);
    let (found, floor) = (decode(&model)?, parameters * bytes / bandwidth / 1e6);
    println!("a token takes {found:.1} ms, {:.2} of the {floor:.1} ms of reading the weights once", found / floor);
    Ok(())
}
