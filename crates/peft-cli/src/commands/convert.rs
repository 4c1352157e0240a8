//! `peft convert`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use llama_burn::{Llama, hub};
use peft_burn::methods::Change;
use peft_burn::{AdapterFiles, AdapterSummary, PeftConfig, PeftModel, convert_to_lora};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::model_args::{DeviceArgs, check_adapter_dir};
use crate::output;

const EXAMPLE: &str = "\
Example: an adapter for a server that knows only LoRA
  peft convert --to lora runs/mine/adapter --model models/smollm2 --output adapters/mine-lora
  peft convert --to lora runs/dora/adapter --model models/smollm2 --output adapters/dora-lora --rank 32";

/// The adapter's name on the model, and that of what it becomes.
const OLD: &str = "old";
const NEW: &str = "new";

/// Make an adapter into one of another method
///
/// VeRA and AdaLoRA become LoRA exactly. DoRA and IA3 change the whole weight: they become the nearest LoRA of --rank, and
/// the error that is left is printed, as a share of the whole change.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Convert {
    /// The adapter: a Hugging Face PEFT directory
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,
    /// The method to convert to
    #[arg(long, value_enum)]
    to: Target,
    /// The model that it was trained on: a Hugging Face directory, or a hub id [default: what the adapter names]
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    /// The folder to write; it must not hold anything
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// The largest rank of a layer; DoRA and IA3 need one, without it the others keep theirs
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A method that others can be converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    Lora,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Converted {
    output: PathBuf,
    from: &'static str,
    to: &'static str,
    /// The largest rank of a layer.
    rank: usize,
    parameters: usize,
    exact: bool,
    largest_error: f64,
    /// By module: what is missing of the change of its weight, as a share of the change.
    errors: BTreeMap<String, f64>,
    warnings: Vec<String>,
}

impl Convert {
    pub fn run(self) -> Result {
        let Target::Lora = self.to;
        let device = self.device.open()?;
        check_adapter_dir(&self.adapter)?;
        check_free(&self.output)?;
        let (config, _) = PeftConfig::from_dir(&self.adapter)?;
        let from = AdapterSummary::read(&self.adapter)?.method();
        if config.change() != Change::LowRank && self.rank.is_none() {
            let cause =
                format!("{from} changes the whole weight, and LoRA comes near it only at a rank that you choose");
            return Err(Failure::new(cause, "add --rank, for example --rank 32; the error that is left is printed"));
        }
        let Some(model) = self.model.as_deref().or(config.base_model_name_or_path()) else {
            let cause = format!("`{}` does not name the model it was trained on", self.adapter.display());
            return Err(Failure::new(cause, "give it: --model DIR"));
        };
        let mut model = Llama::from_dir(hub::resolve(model, None)?, None, &device)?;
        let mut warnings = model.load_adapter(&self.adapter, OLD, false)?;
        warnings.sort();
        warnings.iter().for_each(output::warn);
        let conversion = convert_to_lora(&mut model, OLD, NEW, self.rank)?;
        model.save_adapter(NEW, &self.output)?;
        let PeftConfig::Lora(lora) = model.adapter_config(NEW)? else {
            return Err(Failure::new("the conversion did not give a LoRA adapter", "please report this"));
        };
        let parameters = model.adapter_params(NEW)?.iter().map(|(_, param)| param.num_elements()).sum();
        let done = Converted {
            from,
            to: "LoRA",
            rank: lora.r,
            parameters,
            exact: conversion.largest_error() == 0.0,
            largest_error: conversion.largest_error(),
            errors: conversion.errors,
            warnings,
            output: self.output,
        };
        if self.json {
            return output::json(&done);
        }
        done.print()
    }
}

impl Converted {
    fn print(&self) -> Result {
        let (modules, place) = (self.errors.len(), self.output.display());
        output::line(format_args!("{modules} modules as LoRA of rank {} in {place}", self.rank))?;
        if self.exact {
            return output::line(format_args!("{} is a low-rank update: the conversion is exact", self.from));
        }
        output::line("What is missing of each module's change (Frobenius norms):")?;
        let width = self.errors.keys().map(String::len).max().unwrap_or(0);
        for (path, error) in output::in_order(&self.errors) {
            output::line(format_args!("  {path:width$}  {:6.2}%", error * 100.0))?;
        }
        output::line(format_args!("at most {:.2}%; a higher --rank comes nearer", self.largest_error * 100.0))
    }
}

/// Refuses to write over anything.
pub(super) fn check_free(output: &Path) -> Result {
    let taken = match std::fs::read_dir(output) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => output.exists(),
    };
    if !taken {
        return Ok(());
    }
    let cause = format!("`{}` exists already and is not an empty folder", output.display());
    Err(Failure::new(cause, "choose another --output, or remove it first; nothing was written"))
}
