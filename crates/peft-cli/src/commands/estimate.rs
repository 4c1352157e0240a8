//! `peft estimate`

use std::path::{Path, PathBuf};

use clap::Args;
use llama_burn::{BaseQuantization, Dtype, LlamaConfig, LoadDtype, Quantize, hub, packed_bytes};
use peft_learner::config::RunConfig;
use peft_learner::estimate::{Estimate as Memory, Planned};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::output::{self, bytes};
use crate::size::size;

const EXAMPLE: &str = "\
Examples: the memory of a run on the CPU, and whether it fits
  peft estimate run.toml
  peft estimate run.toml --set model.quantization=nf4 --memory 24GB";

/// Tell the memory that a run takes, before it is started
///
/// Only config.json of the model is read (and the headers of weights that are stored packed). The figure is the process's peak on a
/// CPU with rows as long as data.max_length.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Estimate {
    /// The run's configuration
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Change a key of the file, such as model.quantization=nf4
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// The memory that there is, such as 24GB: also tells how many tokens a step may have
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object that `--json` prints, in bytes.
#[derive(Debug, Serialize)]
struct Estimated {
    #[serde(flatten)]
    memory: Memory,
    /// Whether it fits in --memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<bool>,
    /// The most tokens of a micro-batch that fit in --memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
}

/// The bytes of the weights in `dir` where they stay packed as they are stored, and else how they are packed.
pub fn weights(dir: &Path, asked: Quantize) -> Result<(Option<u64>, Quantize)> {
    if asked != Quantize::AsStored {
        return Ok((None, asked));
    }
    let stored = packed_bytes(dir)?.map(|bytes| bytes as u64);
    let of_config = BaseQuantization::of_dir(dir)?.map(Quantize::To);
    Ok((stored, of_config.unwrap_or(asked)))
}

impl Estimate {
    pub fn run(self) -> Result {
        let config = RunConfig::load(&self.config, &self.set)?;
        let dir = hub::resolve(&config.model.path, None)?;
        let model = LlamaConfig::from_dir(&dir)?;
        let adapter = config.adapter.peft_config()?;
        let (stored, quantize) = weights(&dir, config.model.load_options().quantize)?;
        let mut planned = Planned {
            model: &model,
            stored,
            adapter: Some(&adapter),
            dtype: dtype(config.model.dtype, &model),
            quantize: &quantize,
            batch: config.training.per_device_train_batch_size,
            seq: config.data.max_length,
            gradient_checkpointing: config.training.gradient_checkpointing,
        };
        let memory = Memory::of(&planned)?;
        let fits = self.memory.map(|limit| memory.total <= limit as u64);
        let mut tokens = None;
        if let Some(limit) = self.memory {
            // Twice as many until they do not fit, then between.
            let mut fits = |count: usize| -> Result<bool> {
                (planned.batch, planned.seq) = (1, count);
                Ok(Memory::of(&planned)?.total <= limit as u64)
            };
            let mut most = 1;
            while most < 1 << 24 && fits(2 * most)? {
                most *= 2;
            }
            let (mut low, mut high) = (most, 2 * most);
            while high - low > 1 {
                let middle = low.midpoint(high);
                if fits(middle)? { low = middle } else { high = middle }
            }
            tokens = fits(1)?.then_some(low);
        }
        if self.json {
            return output::json(&Estimated { memory, fits, tokens });
        }
        if let (Some(limit), None) = (self.memory, tokens) {
            return Err(Failure::new(
                format!("the weights and the adapter alone do not fit in {}", bytes(limit)),
                "set model.quantization = \"nf4\" and model.double_quantization = true, or take a smaller model",
            ));
        }
        show(&memory)?;
        if let (Some(limit), Some(fits)) = (self.memory, fits) {
            let limit = bytes(limit);
            match (fits, tokens) {
                (true, Some(tokens)) => {
                    output::line(format_args!("It fits in {limit}, with up to {tokens} tokens in a micro-batch"))?;
                }
                (_, Some(tokens)) => output::line(format_args!(
                    "It does not fit in {limit}: up to {tokens} tokens in a micro-batch would (data.max_length times \
                     training.per_device_train_batch_size), or training.gradient_checkpointing = true"
                ))?,
                (_, None) => {}
            }
        }
        Ok(())
    }
}

/// The dtype that `asked` comes to for a model.
pub fn dtype(asked: LoadDtype, model: &LlamaConfig) -> Dtype {
    match asked {
        LoadDtype::As(dtype) => dtype,
        _ => model.dtype,
    }
}

/// The parts of an estimate, a line each.
pub fn show(memory: &Memory) -> Result {
    for (name, part) in [
        ("weights", memory.weights),
        ("adapter", memory.adapter),
        ("optimiser", memory.optimizer),
        ("activations", memory.activations),
        ("logits", memory.logits),
        ("program", memory.program),
        ("peak", memory.total),
    ] {
        output::line(format_args!("{name:<12} {}", bytes(part as usize)))?;
    }
    Ok(())
}
