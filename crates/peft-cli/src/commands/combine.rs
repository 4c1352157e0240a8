//! `peft combine`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use llama_burn::{Llama, LoadOptions, hub};
use peft_burn::{AdapterFiles, Combination, MajoritySign, PeftConfig, PeftModel, Weighting, add_weighted_adapter};
use serde::Serialize;

use super::convert::check_free;
use crate::failure::{Failure, Result};
use crate::model_args::{DeviceArgs, check_adapter_dir};
use crate::output;

const EXAMPLE: &str = "\
Example: one adapter of two, at 70% and 30%
  peft combine --model models/smollm2 runs/a/adapter=0.7 runs/b/adapter=0.3 --method ties --density 0.5 --output adapters/ab";

/// The name of the combination on the model; those of the adapters are `a0`, `a1`, ...
const NEW: &str = "combined";

/// The warning about the part of DoRA adapters that is lost.
const NORMS: &str = "what DoRA has learned of norms (lora_magnitude_vector) is left out, as in PEFT: the new adapter has the base's; \
                     `peft convert --to lora --rank R` makes LoRA of each adapter first, with all that it changes";

/// Make one adapter of several, each with a weight
///
/// PEFT's `add_weighted_adapter`. LoRA, VeRA and AdaLoRA adapters, in any mixture, give a LoRA adapter; DoRA adapters give a
/// DoRA adapter of their updates, with the base's norms, and IA3 adapters an IA3 adapter (linear only).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Combine {
    /// The adapters, Hugging Face PEFT directories, each with its weight: DIR=WEIGHT
    #[arg(value_name = "DIR=WEIGHT", required = true, value_parser = weighted)]
    adapters: Vec<(PathBuf, f64)>,
    /// The model that they were trained on: a Hugging Face directory, or a hub id
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// How they are combined; PEFT's combination_type
    #[arg(long, value_enum, default_value = "linear")]
    method: Method,
    /// The share of entries that ties, dare and magnitude_prune keep, above 0 and up to 1
    #[arg(long, value_name = "SHARE")]
    density: Option<f64>,
    /// The rank of the svd methods [default: the largest of the adapters']
    #[arg(long, value_name = "N")]
    svd_rank: Option<usize>,
    /// Which sign prevails in ties: that of the sum, or that of most entries
    #[arg(long, value_enum, default_value = "total")]
    majority_sign_method: Sign,
    /// Decides which entries dare drops
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder to write; it must not hold anything
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// PEFT's names of the combinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Method {
    Linear,
    Cat,
    Svd,
    Ties,
    TiesSvd,
    DareLinear,
    DareLinearSvd,
    DareTies,
    DareTiesSvd,
    MagnitudePrune,
    MagnitudePruneSvd,
}

impl From<Method> for Combination {
    fn from(method: Method) -> Self {
        match method {
            Method::Linear => Self::Linear,
            Method::Cat => Self::Cat,
            Method::Svd => Self::Svd,
            Method::Ties => Self::Ties,
            Method::TiesSvd => Self::TiesSvd,
            Method::DareLinear => Self::DareLinear,
            Method::DareLinearSvd => Self::DareLinearSvd,
            Method::DareTies => Self::DareTies,
            Method::DareTiesSvd => Self::DareTiesSvd,
            Method::MagnitudePrune => Self::MagnitudePrune,
            Method::MagnitudePruneSvd => Self::MagnitudePruneSvd,
        }
    }
}

impl Method {
    /// Whether it drops entries, and so needs a density.
    fn prunes(self) -> bool {
        !matches!(self, Self::Linear | Self::Cat | Self::Svd)
    }

    /// Whether it decomposes the whole updates.
    fn decomposes(self) -> bool {
        matches!(self, Self::Svd | Self::TiesSvd | Self::DareLinearSvd | Self::DareTiesSvd | Self::MagnitudePruneSvd)
    }
}

/// PEFT's names of the majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sign {
    Total,
    Frequency,
}

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Combined {
    output: PathBuf,
    adapters: Vec<PathBuf>,
    weights: Vec<f64>,
    peft_type: &'static str,
    modules: usize,
    parameters: usize,
    warnings: Vec<String>,
}

/// `DIR=WEIGHT`, the weight after the last `=`.
fn weighted(text: &str) -> std::result::Result<(PathBuf, f64), String> {
    let problem = || format!("`{text}` is not DIR=WEIGHT, for example runs/a/adapter=0.7");
    let (dir, weight) = text.rsplit_once('=').filter(|(dir, _)| !dir.is_empty()).ok_or_else(problem)?;
    let weight: f64 = weight.parse().map_err(|_| problem())?;
    if weight.is_finite() { Ok((dir.into(), weight)) } else { Err(problem()) }
}

impl Combine {
    pub fn run(self) -> Result {
        self.check()?;
        let device = self.device.open()?;
        let base = hub::resolve(&self.model, None)?;
        let (mut model, of_base) = Llama::load(base, &LoadOptions::default(), &device)?;
        of_base.iter().for_each(output::warn);
        let mut warnings = Vec::new();
        let mut parts = Vec::new();
        for (at, (dir, weight)) in self.adapters.iter().enumerate() {
            let name = format!("a{at}");
            warnings.extend(model.load_adapter(dir, &name, false)?);
            parts.push((name, *weight));
        }
        warnings.sort();
        warnings.dedup();
        warnings.iter().for_each(output::warn);
        let majority_sign = match self.majority_sign_method {
            Sign::Total => MajoritySign::Total,
            Sign::Frequency => MajoritySign::Frequency,
        };
        let weighting = Weighting {
            svd_rank: self.svd_rank,
            density: self.density,
            majority_sign,
            seed: self.seed,
            ..Weighting::new(self.method.into())
        };
        let parts: Vec<(&str, f64)> = parts.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        add_weighted_adapter(&mut model, NEW, &parts, weighting)?;
        if matches!(model.adapter_config(NEW)?, PeftConfig::Lora(lora) if lora.use_dora) {
            let left_out = NORMS.to_owned();
            output::warn(&left_out);
            warnings.push(left_out);
        }
        model.save_adapter(NEW, &self.output)?;
        let done = Combined {
            peft_type: model.adapter_config(NEW)?.peft_type(),
            modules: model.adapted_modules(NEW)?.len(),
            parameters: model.adapter_params(NEW)?.iter().map(|(_, param)| param.num_elements()).sum(),
            weights: parts.iter().map(|(_, weight)| *weight).collect(),
            adapters: self.adapters.into_iter().map(|(dir, _)| dir).collect(),
            output: self.output,
            warnings,
        };
        if self.json {
            return output::json(&done);
        }
        let (count, place) = (done.adapters.len(), done.output.display());
        let kind = done.peft_type;
        output::line(format_args!("{count} adapters as one of type {kind} for {} modules in {place}", done.modules))
    }

    /// The checks that need no model.
    fn check(&self) -> Result {
        self.adapters.iter().try_for_each(|(dir, _)| check_adapter_dir(dir))?;
        check_free(&self.output)?;
        let method = self.method.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        if self.method.prunes() && self.density.is_none() {
            return Err(Failure::new(
                format!("{method} keeps a share of the entries"),
                "add --density, for example --density 0.5",
            ));
        }
        let unused = [
            ("--density", self.density.is_some() && !self.method.prunes()),
            ("--svd-rank", self.svd_rank.is_some() && !self.method.decomposes()),
        ];
        let unused: Vec<_> = unused.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let cause = format!("{method} does not use {}", unused.join(" and "));
        Err(Failure::new(cause, format!("leave {} out, or choose another --method", unused.join(" and "))))
    }
}
