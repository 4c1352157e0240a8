//! `peft merge`

use std::path::PathBuf;

use clap::Args;
use llama_burn::{hub, merge_into};
use serde::Serialize;

use crate::failure::Result;
use crate::model_args::{DeviceArgs, check_adapter_dir};
use crate::output::{self, quoted};

const EXAMPLE: &str = "\
Example: a model that any program for Hugging Face models loads
  peft merge --model models/smollm2 --adapter runs/mine/adapter --output models/mine";

/// Fold an adapter into its model
///
/// Writes a plain Hugging Face directory in the dtype of the model's own files. Its config.json and tokenizer are copied;
/// weights that the adapter does not touch stay as they are to the bit.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Merge {
    /// The model: a Hugging Face directory, or a hub id
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// The adapter: a Hugging Face PEFT directory
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The folder to write; it must not hold anything
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
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
    warnings: Vec<String>,
}

impl Merge {
    pub fn run(self) -> Result {
        let device = self.device.open()?;
        check_adapter_dir(&self.adapter)?;
        let base = hub::resolve(&self.model, None)?;
        let report = merge_into(&base, &self.adapter, &self.output, &device)?;
        report.warnings.iter().for_each(output::warn);
        if report.untied {
            output::note("the head now differs from the embedding: config.json says tie_word_embeddings = false");
        }
        if self.json {
            return output::json(&Merged {
                output: self.output,
                parameters: report.parameters,
                merged_modules: report.merged_modules,
                untied_head: report.untied,
                warnings: report.warnings,
            });
        }
        let place = self.output.display().to_string();
        output::line(format_args!("{} modules merged into {place}", report.merged_modules))?;
        let peft = output::program();
        output::line(format_args!("Try it:\n  {peft} generate --model {} --prompt 'Hello'", quoted(&place)))
    }
}
