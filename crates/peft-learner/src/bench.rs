//! The cost of one training step.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use llama_burn::{Input, Llama, LlamaConfig};
use peft_burn::adalora::{keep_gradients, orthogonal_regularization, update_and_allocate};
use peft_burn::{PeftConfig, PeftError, PeftModel, TargetModules};
use serde::{Serialize, Serializer};

use crate::train::{cross_entropy, keep_freed_memory};

/// The adapter's name.
const NAME: &str = "default";

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchMethod {
    /// A preset of that name ([`PeftConfig::presets`]) on the modules that its method is usually measured on: for most q,
    /// k, v and o. AdaLoRA with its orthogonality term, its scores and a mask at every step.
    Usual(&'static str),
    /// The same on all linear modules.
    All(&'static str),
    /// Every weight is trained.
    Full,
    /// The forward pass and the loss, without gradients.
    BaseForward,
}

impl BenchMethod {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let presets = PeftConfig::presets(1).into_iter();
        let adapters = presets.flat_map(|preset| [Self::Usual(preset.name), Self::All(preset.name)]);
        adapters.chain([Self::Full, Self::BaseForward]).collect()
    }

    /// What it is called: `lora`, `lora_all`, `full`, `base_forward`.
    pub fn name(self) -> String {
        match self {
            Self::Usual(preset) => preset.to_owned(),
            Self::All(preset) => format!("{preset}_all"),
            Self::Full => "full".to_owned(),
            Self::BaseForward => "base_forward".to_owned(),
        }
    }

    /// The names of all of them, for a message.
    pub fn names() -> String {
        Self::all().into_iter().map(Self::name).collect::<Vec<_>>().join(", ")
    }

    /// The adapter of a run of `steps` steps.
    fn adapter(self, steps: usize) -> Option<PeftConfig> {
        let (Self::Usual(name) | Self::All(name)) = self else { return None };
        let mut config = PeftConfig::presets(steps).into_iter().find(|preset| preset.name == name)?.config;
        config.make_steps_alike(steps);
        if let Self::Usual(_) = self {
            *config.shared_mut().target_modules = TargetModules::list(config.usual_targets().iter().copied());
        }
        Some(config)
    }
}

impl Serialize for BenchMethod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl FromStr for BenchMethod {
    type Err = BenchError;

    fn from_str(name: &str) -> Result<Self, BenchError> {
        let found = Self::all().into_iter().find(|method| method.name() == name);
        found.ok_or_else(|| BenchError::Method { name: name.to_owned(), known: Self::names() })
    }
}

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// An unknown name.
    #[error("there is no bench method `{name}` (known: {known})")]
    Method {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No step to time, or no token to train on.
    #[error("{0}")]
    Size(&'static str),
    /// The model.
    #[error(transparent)]
    Model(#[from] llama_burn::LlamaError),
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] peft_burn::PeftError),
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// A Hugging Face model folder.
    pub model: PathBuf,
    /// Takes the folder's `config.json` alone and makes the weights up.
    pub random: bool,
    /// What is trained.
    pub method: BenchMethod,
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Leading tokens of a row that are no targets, as a prompt's.
    pub prompt: usize,
    /// Timed steps.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// The base's dtype.
    pub dtype: FloatDType,
    /// Whether decoder layers run again in backward instead of keeping what it needs.
    pub gradient_checkpointing: bool,
    /// Where it runs.
    pub device: Device,
    /// What the user calls that.
    pub device_name: String,
}

/// What was measured. The keys are those of PEFT's own measurement, so that the two can be compared by machine.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// `peft-burn`.
    #[serde(rename = "impl")]
    pub implementation: &'static str,
    /// What was trained.
    pub method: BenchMethod,
    /// Where.
    pub device: String,
    /// The base's dtype, `f32` or `bf16`.
    pub dtype: String,
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of a row.
    pub seq: usize,
    /// Trained numbers.
    pub trainable: usize,
    /// Median of the timed steps, in milliseconds.
    pub step_ms: f64,
    /// Each timed step, in milliseconds.
    pub steps_ms: Vec<f64>,
    /// Tokens per second at the median.
    pub tokens_per_s: f64,
    /// The most memory that the process held, in MiB; 0 where the system does not say.
    pub peak_rss_mb: f64,
    /// The most device memory that Burn held for reuse at the end of a step, in MiB: all that the steps needed at once, in
    /// whole pages. 0 on the CPU. (PyTorch's `max_memory_allocated`, which the reference reports, is without the pages.)
    pub peak_gpu_mb: f64,
    /// Seconds from the start to the first step.
    pub load_s: f64,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Threads that computed.
    pub threads: usize,
}

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
        model.set_base_trainable(true);
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
    Ok(if config.random {
        Llama::random_on_device(LlamaConfig::from_dir(&config.model)?, 0, config.dtype, &config.device)
    } else {
        Llama::from_dir(&config.model, Some(config.dtype), &config.device)?
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

/// Fixed pseudo-random tokens: `id[i] = (i·7919 + 13) mod vocab`.
struct Batch {
    input: Input,
    /// Rows of the residual stream that have a target.
    positions: Tensor<1, Int>,
    targets: Tensor<1, Int>,
}

impl Batch {
    fn new(config: &BenchConfig, vocab: usize) -> Self {
        let id = |i: usize| ((i * 7919 + 13) % vocab) as u32;
        let rows: Vec<Vec<u32>> =
            (0..config.batch).map(|b| (0..config.seq).map(|t| id(b * config.seq + t)).collect()).collect();
        // The last token of a row predicts nothing, and the prompt is not predicted.
        let predicts = |i: &usize| (i + 1) % config.seq >= config.prompt.max(1);
        let at: Vec<usize> = (0..config.batch * config.seq).filter(predicts).collect();
        let ints = |values: Vec<i32>| Tensor::from_data(TensorData::new(values, [at.len()]), &config.device);
        Self {
            input: Input::from_rows(&rows, &config.device),
            positions: ints(at.iter().map(|&i| i as i32).collect()),
            targets: ints(at.iter().map(|&i| id(i + 1) as i32).collect()),
        }
    }

    fn loss(&self, model: &Llama) -> Tensor<1> {
        let n = self.targets.dims()[0] as f64;
        let hidden = model.hidden(&self.input, None).select(0, self.positions.clone());
        cross_entropy(model, hidden, self.targets.clone(), 1.0 / n)
    }
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

    #[test]
    fn names_are_those_of_the_reference() {
        for method in BenchMethod::all() {
            assert_eq!(method.name().parse::<BenchMethod>().unwrap(), method);
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
        let known = BenchMethod::names();
        let reference = ["lora", "lora_all", "dora", "dora_all", "vera", "adalora", "ia3", "full", "base_forward"];
        assert!(reference.iter().all(|name| known.split(", ").any(|known| known == *name)), "{known}");
        assert!("qlora".parse::<BenchMethod>().unwrap_err().to_string().contains("lora_all"));
    }
}
