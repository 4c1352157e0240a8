//! The cost of one training step.

mod batch;
mod config;
mod error;
mod method;
mod report;

use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use llama_burn::{Llama, LlamaConfig, LoadOptions};
use peft_burn::adalora::{keep_gradients, orthogonal_regularization, update_and_allocate};
use peft_burn::{PeftError, PeftModel};

use crate::train::keep_freed_memory;
use batch::Batch;
pub use config::BenchConfig;
pub use error::BenchError;
pub use method::BenchMethod;
pub use report::BenchReport;

/// The adapter's name.
const NAME: &str = "default";

/// Times steps: forward with every token as a label, backward, AdamW. One process should measure one method, so that the
/// peak of memory is that method's own.
///
/// # Errors
/// A model that cannot be loaded, an adapter that does not fit it, or nothing to measure.
pub fn run(config: &BenchConfig) -> Result<BenchReport, BenchError> {
    if config.steps == 0 || config.batch == 0 || config.seq < 2 {
        return Err(BenchError::Size("a measurement needs at least one step, one row and two tokens a row"));
    }
    keep_freed_memory();
    let start = Instant::now();
    let mut model = load(config)?;
    let total = config.warmup + config.steps;
    let adapter = config.method.adapter(total);
    if let Some(adapter) = &adapter {
        model.add_adapter(NAME, adapter, 0)?;
    }
    let prunes = adapter.as_ref().is_some_and(|adapter| adapter.prunes());
    model.set_gradient_checkpointing(config.gradient_checkpointing);
    if config.method == BenchMethod::Full {
        model.set_base_trainable(true)?;
    }
    let training = config.method != BenchMethod::BaseForward;
    let trainable = match config.method {
        BenchMethod::Full => model.config().num_parameters(),
        BenchMethod::BaseForward => 0,
        _ => model.trainable_parameters().trainable,
    };
    if training {
        model = model.train();
    }
    let batch = Batch::new(config, model.config().vocab_size);
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.01).with_epsilon(1e-8).init();
    let load_s = start.elapsed().as_secs_f64();

    let (mut times, mut losses, mut peak_gpu) = (Vec::new(), Vec::new(), 0);
    for index in 0..total {
        let start = Instant::now();
        let mut loss = batch.loss(&model);
        if prunes {
            loss = loss + orthogonal_regularization(&model, NAME)?;
        }
        if training {
            model = step(&mut optimizer, model, &loss, prunes.then_some(index))?;
        }
        losses.push(loss.into_scalar::<f64>());
        times.push(start.elapsed().as_secs_f64() * 1e3);
        peak_gpu = peak_gpu.max(config.device.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved));
    }
    let steps_ms = times.split_off(config.warmup);
    let step_ms = median(&steps_ms);
    Ok(BenchReport {
        implementation: "peft-burn",
        method: config.method,
        device: config.device_name.clone(),
        dtype: format!("{:?}", config.dtype).to_lowercase(),
        batch: config.batch,
        seq: config.seq,
        trainable,
        step_ms,
        tokens_per_s: (config.batch * config.seq) as f64 / step_ms * 1e3,
        steps_ms,
        peak_rss_mb: peak_rss_mb(),
        peak_gpu_mb: peak_gpu as f64 / f64::from(1 << 20),
        load_s,
        first_loss: losses[0],
        last_loss: losses[losses.len() - 1],
        threads: rayon::current_num_threads(),
    })
}

fn load(config: &BenchConfig) -> Result<Llama, BenchError> {
    let options = LoadOptions::from(Some(config.dtype)).with_quantize(config.quantize.clone());
    Ok(if config.random {
        Llama::random_packed(LlamaConfig::from_dir(&config.model)?, 0, config.dtype, &config.quantize, &config.device)
    } else {
        Llama::load(&config.model, &options, &config.device)?.0
    })
}

/// Backward, AdamW and, for AdaLoRA, the allocation of step `allocate`; the reference counts from 0.
fn step(
    optimizer: &mut ModuleOptimizer,
    model: Llama,
    loss: &Tensor<1>,
    allocate: Option<usize>,
) -> Result<Llama, PeftError> {
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let Some(index) = allocate else { return Ok(optimizer.step(1e-4, model, grads)) };
    let kept = keep_gradients(&model, NAME, &grads)?;
    let mut model = optimizer.step(1e-4, model, grads);
    update_and_allocate(&mut model, NAME, &kept, index)?;
    Ok(model)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

/// The process's largest resident set so far, in MiB (Linux).
pub fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.map_or(0.0, |kib| kib / 1024.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
