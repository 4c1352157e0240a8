//! `peft merge`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use llama_burn::{GgufType, Quantize, hub, merge_into, merge_into_gguf, merge_into_packed};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::model_args::{DeviceArgs, QuantizationArgs, check_adapter_dir};
use crate::output::{self, quoted};

const EXAMPLE: &str = "\
Examples: a model that any program for Hugging Face models loads; and one that llama.cpp runs
  peft merge --model models/smollm2 --adapter runs/mine/adapter --output models/mine
  peft merge --model models/smollm2 --adapter runs/mine/adapter --output mine.gguf --gguf q8_0";

/// Fold an adapter into its model
///
/// Writes a plain Hugging Face directory in the dtype of the model's own files. Its config.json and tokenizer are copied;
/// weights that the adapter does not touch stay as they are to the bit. With --gguf it writes one file for llama.cpp instead, of
/// the model alone where no adapter is given.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Merge {
    /// The model: a Hugging Face directory, a .gguf file, or a hub id
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// The adapter: a Hugging Face PEFT directory
    #[arg(long, value_name = "DIR", required_unless_present = "gguf")]
    adapter: Option<PathBuf>,
    /// The folder to write; it must not hold anything. With --gguf, the file
    #[arg(long, value_name = "DIR|FILE")]
    output: PathBuf,
    /// Write a GGUF file whose matrices are stored so (q4_k_m: llama.cpp's mixture of types)
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(GgufType::ALL.map(|(name, _)| name)))]
    gguf: Option<String>,
    #[command(flatten)]
    quantization: QuantizationArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Merged {
    output: PathBuf,
    parameters: usize,
    merged_modules: usize,
    untied_head: bool,
    /// Of each module the share of the update that is left in packed weights.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    survives: BTreeMap<String, f64>,
    warnings: Vec<String>,
}

impl Merge {
    pub fn run(self) -> Result {
        let device = self.device.open()?;
        self.adapter.iter().try_for_each(|adapter| check_adapter_dir(adapter))?;
        let base = hub::resolve(&self.model, None)?;
        let kind = GgufType::ALL.into_iter().find(|(name, _)| self.gguf.as_deref() == Some(name));
        let (report, survives) = match (kind, self.quantization.asked(Vec::new())?, &self.adapter) {
            (Some(_), Quantize::To(_), _) => {
                return Err(Failure::new(
                    "--gguf and --quantization each say how weights are stored",
                    "give one of them; --gguf q4_k_m is 4 bits too",
                ));
            }
            (Some((_, kind)), _, adapter) => {
                (merge_into_gguf(&base, adapter.as_deref(), &self.output, kind, &device)?, BTreeMap::new())
            }
            (None, _, None) => return Err(Failure::new("no adapter is named", "give its folder: --adapter DIR")),
            (None, Quantize::To(how), Some(adapter)) => {
                let report = merge_into_packed(&base, adapter, &self.output, &how, &device)?;
                (report.merge, report.survives)
            }
            (None, _, Some(adapter)) => (merge_into(&base, adapter, &self.output, &device)?, BTreeMap::new()),
        };
        report.warnings.iter().for_each(output::warn);
        if report.untied && kind.is_none() {
            output::note("the head now differs from the embedding: config.json says tie_word_embeddings = false");
        }
        if self.json {
            return output::json(&Merged {
                output: self.output,
                parameters: report.parameters,
                merged_modules: report.merged_modules,
                untied_head: report.untied,
                survives,
                warnings: report.warnings,
            });
        }
        let place = self.output.display().to_string();
        match report.merged_modules {
            0 => output::line(format_args!("The model is in {place}"))?,
            modules => output::line(format_args!("{modules} modules merged into {place}"))?,
        }
        if let Some((least, share)) = survives.iter().min_by(|a, b| a.1.total_cmp(b.1)) {
            let mean = survives.values().sum::<f64>() / survives.len() as f64;
            output::line(format_args!(
                "after rounding {:.0} % of the update is left, least in {least} ({:.0} %)",
                mean * 100.0,
                share * 100.0
            ))?;
        }
        let peft = output::program();
        output::line(format_args!("Try it:\n  {peft} generate --model {} --prompt 'Hello'", quoted(&place)))
    }
}
