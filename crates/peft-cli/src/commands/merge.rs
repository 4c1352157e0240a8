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
/// weights that the adapter does not touch stay as they are to the bit. With --gguf it writes one file for llama.cpp instead.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Merge {
    /// The model: a Hugging Face directory, a .gguf file, or a hub id
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// The adapter: a Hugging Face PEFT directory
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The folder to write; it must not hold anything. With --gguf, the file
    #[arg(long, value_name = "DIR|FILE")]
    output: PathBuf,
    /// Write a GGUF file whose matrices are stored so
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
        check_adapter_dir(&self.adapter)?;
        let base = hub::resolve(&self.model, None)?;
        let kind = GgufType::ALL.into_iter().find(|(name, _)| self.gguf.as_deref() == Some(name));
        let (report, survives) = match (kind, self.quantization.asked(Vec::new())?) {
            (Some(_), Quantize::To(_)) => {
                return Err(Failure::new(
                    "--gguf and --quantization each say how weights are stored",
                    "give one of them; --gguf q4_k_m is 4 bits too",
                ));
            }
            (Some((_, kind)), _) => {
                (merge_into_gguf(&base, Some(&self.adapter), &self.output, kind, &device)?, BTreeMap::new())
            }
            (None, Quantize::To(how)) => {
                let report = merge_into_packed(&base, &self.adapter, &self.output, &how, &device)?;
                (report.merge, report.survives)
            }
            (None, _) => (merge_into(&base, &self.adapter, &self.output, &device)?, BTreeMap::new()),
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
        output::line(format_args!("{} modules merged into {place}", report.merged_modules))?;
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
