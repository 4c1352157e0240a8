//! `peft convert`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use clap::{Args, ValueEnum};
use llama_burn::{Llama, LoadOptions, hub, save_lora_gguf};
use peft_burn::methods::Change;
use peft_burn::{AdapterFiles, AdapterSummary, PeftConfig, PeftModel, convert_to_lora, extract_lora, rewrite_adapter};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::model_args::{DeviceArgs, check_adapter_dir};
use crate::output;

const EXAMPLE: &str = "\
Example: an adapter for a server that knows only LoRA; one of mlx-lm for PEFT; a fine-tuned checkpoint as an adapter
  peft convert --to lora runs/mine/adapter --model models/smollm2 --output adapters/mine-lora
  peft convert --to lora runs/dora/adapter --model models/smollm2 --output adapters/dora-lora --rank 32
  peft convert --to peft mlx/adapters --output adapters/from-mlx
  peft convert --to gguf runs/mine/adapter --model models/smollm2 --output mine-lora.gguf
  peft convert --from-model models/tuned --model models/smollm2 --rank 32 --output adapters/tuned";

/// The adapter's name on the model, and that of what it becomes.
const OLD: &str = "old";
const NEW: &str = "new";

/// Make an adapter into one of another method, of PEFT's own spelling, or out of a fine-tuned model
///
/// --to lora: VeRA and AdaLoRA become LoRA exactly. DoRA and IA3 change the whole weight: they become the nearest LoRA of --rank,
/// and the error that is left is printed, as a share of the whole change. --to peft: adapters of mlx-lm, vLLM and older PEFT,
/// and adapter_model.bin, become what PEFT writes today; their values stay as they are. --to gguf: as --to lora, in one file that
/// llama.cpp puts on its model. --from-model: the difference between
/// a fine-tuned model and its base becomes a LoRA of --rank.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Convert {
    /// The adapter: a Hugging Face PEFT directory, or one of mlx-lm
    #[arg(value_name = "ADAPTER", required_unless_present = "from_model")]
    adapter: Option<PathBuf>,
    /// Instead of an adapter, a fine-tuned model whose difference from --model becomes one
    #[arg(long, value_name = "DIR|ID", conflicts_with = "adapter", requires_all = ["model", "rank"])]
    from_model: Option<String>,
    /// The kind to convert to
    #[arg(long, value_enum, required_unless_present = "from_model")]
    to: Option<Target>,
    /// The model that it was trained on: a Hugging Face directory, or a hub id [default: what the adapter names]
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    /// The folder to write; it must not hold anything. With --to gguf, the file
    #[arg(long, value_name = "DIR|FILE")]
    output: PathBuf,
    /// The largest rank of a layer; DoRA, IA3 and --from-model need one, without it the others keep theirs
    #[arg(long, visible_alias = "r", value_name = "N")]
    rank: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The kinds to convert to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Plain LoRA
    Lora,
    /// The same method, as PEFT writes it today
    Peft,
    /// Plain LoRA, as llama.cpp reads it
    Gguf,
}

/// The object that `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Converted {
    output: PathBuf,
    from: String,
    to: &'static str,
    /// The largest rank of a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    parameters: usize,
    exact: bool,
    largest_error: f64,
    /// By module: what is missing of the change of its weight, as a share of the change.
    errors: BTreeMap<String, f64>,
    /// Modules that are kept whole.
    whole_modules: Vec<String>,
    warnings: Vec<String>,
}

impl Convert {
    pub fn run(self) -> Result {
        check_free(&self.output)?;
        let done = match (&self.from_model, &self.adapter, self.to) {
            (Some(_), _, Some(Target::Peft)) => {
                let cause = "--from-model makes a LoRA, and --to peft is for adapters that there are";
                return Err(Failure::new(cause, "leave --to out"));
            }
            (Some(_), _, Some(Target::Gguf)) => {
                let cause = "--from-model makes a LoRA in PEFT's files, and --to gguf is for adapters that there are";
                return Err(Failure::new(cause, "leave --to out, and convert what it writes"));
            }
            (Some(tuned), ..) => self.extract(tuned)?,
            (None, Some(adapter), Some(Target::Peft)) => self.rewrite(adapter)?,
            (None, Some(adapter), _) => self.to_lora(adapter)?,
            (None, None, _) => return Err(Failure::new("no adapter is named", "give its folder, or --from-model")),
        };
        if self.json {
            return output::json(&done);
        }
        done.print()
    }

    /// Another method's adapter as LoRA.
    fn to_lora(&self, adapter: &Path) -> Result<Converted> {
        let device = self.device.open()?;
        check_adapter_dir(adapter)?;
        let (config, _) = PeftConfig::from_dir(adapter)?;
        let from = AdapterSummary::read(adapter)?.method();
        if config.change() != Change::LowRank && self.rank.is_none() {
            let cause =
                format!("{from} changes the whole weight, and LoRA comes near it only at a rank that you choose");
            return Err(Failure::new(cause, "add --rank, for example --rank 32; the error that is left is printed"));
        }
        let Some(model) = self.model.as_deref().or(config.base_model_name_or_path()) else {
            let cause = format!("`{}` does not name the model it was trained on", adapter.display());
            return Err(Failure::new(cause, "give it: --model DIR"));
        };
        let (mut model, mut warnings) = Llama::load(hub::resolve(model, None)?, &LoadOptions::default(), &device)?;
        let mut of_adapter = model.load_adapter(adapter, OLD, false)?;
        of_adapter.sort();
        warnings.extend(of_adapter);
        warnings.iter().for_each(output::warn);
        let to_gguf = self.to == Some(Target::Gguf);
        // A plain LoRA is one already.
        let plain = matches!(model.adapter_config(OLD)?, PeftConfig::Lora(lora) if !lora.use_dora);
        let (name, errors) = if to_gguf && plain && self.rank.is_none() {
            (OLD, model.adapted_modules(OLD)?.iter().map(|path| (path.clone(), 0.0)).collect())
        } else {
            (NEW, convert_to_lora(&mut model, OLD, NEW, self.rank)?.errors)
        };
        if to_gguf {
            save_lora_gguf(&model, name, &self.output)?;
        } else {
            model.save_adapter(name, &self.output)?;
        }
        let largest_error = errors.values().copied().fold(0.0, f64::max);
        Ok(Converted {
            from: from.into(),
            to: if to_gguf { "LoRA for llama.cpp" } else { "LoRA" },
            rank: rank_of(&model, name)?,
            parameters: parameters_of(&model, name)?,
            exact: largest_error == 0.0,
            largest_error,
            errors,
            warnings,
            output: self.output.clone(),
            ..Converted::default()
        })
    }

    /// The same adapter as PEFT writes it today. With --model it is tried there first.
    fn rewrite(&self, adapter: &Path) -> Result<Converted> {
        if self.rank.is_some() {
            return Err(Failure::new("--to peft keeps every rank, and --rank is given", "leave --rank out"));
        }
        check_adapter_dir(adapter)?;
        let rewritten = rewrite_adapter(adapter, &self.output)?;
        let mut warnings = rewritten.warnings;
        if let Some(model) = &self.model {
            let device = self.device.open()?;
            let fits = || -> Result<Vec<String>> {
                let mut model = Llama::from_dir(hub::resolve(model, None)?, None, &device)?;
                Ok(model.load_adapter(&self.output, OLD, false)?)
            };
            match fits() {
                Ok(more) => warnings.extend(more),
                Err(failure) => {
                    // Nothing is left behind that does not fit the model it is meant for.
                    let _ = std::fs::remove_dir_all(&self.output);
                    return Err(failure);
                }
            }
        }
        warnings.iter().for_each(output::warn);
        let summary = AdapterSummary::read(&self.output)?;
        Ok(Converted {
            from: rewritten.from.into(),
            to: "PEFT",
            rank: summary.modules.values().filter_map(|module| module.rank).max(),
            parameters: summary.parameters,
            exact: true,
            errors: summary.modules.into_keys().map(|path| (path, 0.0)).collect(),
            warnings,
            output: self.output.clone(),
            ..Converted::default()
        })
    }

    /// The difference of two models as LoRA.
    fn extract(&self, tuned: &str) -> Result<Converted> {
        let device = self.device.open()?;
        // Clap asks for both.
        let (base, rank) = (self.model.as_deref().unwrap_or_default(), self.rank.unwrap_or_default());
        let load = |model: &str| -> Result<(Llama, Vec<String>)> {
            Ok(Llama::load(hub::resolve(model, None)?, &Some(FloatDType::F32).into(), &device)?)
        };
        let ((mut model, mut warnings), (other, more)) = (load(base)?, load(tuned)?);
        warnings.extend(more);
        let differences = model.config().differences(other.config());
        if !differences.is_empty() {
            let cause = format!("`{tuned}` and `{base}` compute otherwise: {}", differences.join("; "));
            return Err(Failure::new(
                cause,
                "give the model that the tuned one was made from; no adapter can hold these",
            ));
        }
        if model.config().vocab_size != other.config().vocab_size {
            warnings.push(format!(
                "the tuned model has {} tokens and the base {}: PEFT loads the adapter on a base that was resized first \
                 (resize_token_embeddings)",
                other.config().vocab_size,
                model.config().vocab_size
            ));
        }
        warnings.iter().for_each(output::warn);
        let extraction = extract_lora(&mut model, &other, NEW, rank, Some(base))?;
        model.save_adapter(NEW, &self.output)?;
        Ok(Converted {
            from: tuned.into(),
            to: "LoRA",
            rank: rank_of(&model, NEW)?,
            parameters: parameters_of(&model, NEW)?,
            exact: extraction.largest_error() == 0.0,
            largest_error: extraction.largest_error(),
            errors: extraction.errors,
            whole_modules: extraction.whole,
            warnings,
            output: self.output.clone(),
        })
    }
}

fn rank_of(model: &Llama, name: &str) -> Result<Option<usize>> {
    Ok(match model.adapter_config(name)? {
        PeftConfig::Lora(lora) => Some(lora.r),
        _ => None,
    })
}

fn parameters_of(model: &Llama, name: &str) -> Result<usize> {
    Ok(model.adapter_params(name)?.iter().map(|(_, param)| param.num_elements()).sum())
}

impl Converted {
    fn print(&self) -> Result {
        let (modules, place) = (self.errors.len(), self.output.display());
        let rank = self.rank.map(|rank| format!(" of rank {rank}")).unwrap_or_default();
        output::line(format_args!("{modules} modules as {}{rank} in {place}", self.to))?;
        if !self.whole_modules.is_empty() {
            output::line(format_args!("kept whole (modules_to_save): {}", self.whole_modules.join(", ")))?;
        }
        if self.to == "PEFT" {
            return output::line("the values are those of the file");
        }
        if self.exact {
            return output::line("nothing of the change is missing: the conversion is exact");
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
