//! `peft quantize`

use std::path::PathBuf;

use clap::Args;
use llama_burn::{BaseQuantization, Format, LoadDtype, Quantize as Packing, hub, quantize_into};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::model_args::{DeviceArgs, QuantizationArgs, dtype_parser};
use crate::output::{self, bytes, quoted};

const EXAMPLE: &str = "\
Example: a base of a quarter of the size, to fine-tune on
  peft quantize --model models/smollm2 --output models/smollm2-nf4 --quantization nf4 --double-quantization";

/// Write a model with the weights of its projections packed into 4 or 8 bits
///
/// The directory is laid out as bitsandbytes does it, so that Transformers opens it too. Embeddings, norms and the head stay as they
/// are. A model need not be written: `--quantization` on the other commands packs it while it is loaded.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Quantize {
    /// The model: a Hugging Face directory, a .gguf file, or a hub id
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// The folder to write; it must not hold anything
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Modules that stay dense beside the head: paths, or names that are a part of them; may be given often
    #[arg(long, value_name = "NAME")]
    skip_modules: Vec<String>,
    #[command(flatten)]
    quantization: QuantizationArgs,
    /// Dtype of all other weights, and of what packed ones are decoded to; `auto` is that of the model's files
    #[arg(long, default_value = "auto", value_parser = dtype_parser())]
    dtype: LoadDtype,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Quantized {
    output: PathBuf,
    packed_modules: usize,
    bytes: usize,
    warnings: Vec<String>,
}

impl Quantize {
    pub fn run(self) -> Result {
        let how = match self.quantization.asked(self.skip_modules.clone())? {
            Packing::AsStored => BaseQuantization {
                double_quantization: true,
                skip_modules: self.skip_modules,
                ..BaseQuantization::new(Format::Nf4)
            },
            Packing::To(how) => how,
            _ => {
                return Err(Failure::new(
                    "--quantization none packs nothing",
                    "give nf4, fp4 or int8; a packed model becomes dense by `peft merge`",
                ));
            }
        };
        let base = hub::resolve(&self.model, None)?;
        let report = quantize_into(base, &self.output, &how, self.dtype.into(), &self.device.open()?)?;
        report.warnings.iter().for_each(output::warn);
        if self.json {
            return output::json(&Quantized {
                output: self.output,
                packed_modules: report.packed_modules,
                bytes: report.bytes,
                warnings: report.warnings,
            });
        }
        let place = self.output.display().to_string();
        let size = bytes(report.bytes);
        output::line(format_args!("{} modules packed, {size} of weights in {place}", report.packed_modules))?;
        let peft = output::program();
        output::line(format_args!("Try it:\n  {peft} generate --model {} --prompt 'Hello'", quoted(&place)))
    }
}
