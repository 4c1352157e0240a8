//! `--model`, `--adapter` and what goes with them.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use llama_burn::{LlamaConfig, LoadDtype, LoadOptions, QuantizationKind, Quantize};
use peft_burn::AdapterFiles;
use peft_learner::base::Base;
use peft_learner::device::DeviceName;
use peft_learner::from_config::ADAPTER;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::output::warn;

/// A model, perhaps with an adapter on it.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model: a Hugging Face directory, or a hub id
    #[arg(long, value_name = "DIR|ID")]
    pub model: String,
    /// An adapter on it: a Hugging Face PEFT directory
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub dtype: DtypeArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Where to compute.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// cpu, cuda, cuda:N, rocm, rocm:N, metal, vulkan or webgpu
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceName,
}

impl DeviceArgs {
    /// The device.
    pub fn open(&self) -> Result<Device> {
        Ok(self.device.open()?)
    }
}

/// The dtype of the model's weights.
#[derive(Debug, Args)]
pub struct DtypeArgs {
    /// Dtype of the model's weights; `auto` is that of its files
    #[arg(long, default_value = "f32", value_parser = dtype_parser())]
    pub dtype: LoadDtype,
    #[command(flatten)]
    pub quantization: QuantizationArgs,
}

/// Whether the model's weights are packed.
#[derive(Debug, Args)]
pub struct QuantizationArgs {
    /// Pack the weights of projections while they are loaded; `none` decodes what is stored packed
    #[arg(long, value_name = "FORMAT", value_parser = quantization_parser())]
    pub quantization: Option<QuantizationKind>,
    /// Quantise the scales of a 4-bit format too
    #[arg(long, requires = "quantization")]
    pub double_quantization: bool,
}

impl QuantizationArgs {
    /// The quantization that the options ask for; `skip_modules` stay dense.
    pub fn asked(&self, skip_modules: Vec<String>) -> Result<Quantize> {
        if self.double_quantization && !self.quantization.is_some_and(QuantizationKind::is_four_bit) {
            return Err(Failure::new(
                "--double-quantization is for the 4-bit formats",
                "give it with --quantization nf4 or fp4, or leave it out",
            ));
        }
        Ok(Quantize::asked(self.quantization, self.double_quantization, skip_modules))
    }
}

impl DtypeArgs {
    /// How the weights are loaded.
    pub fn options(&self) -> Result<LoadOptions> {
        Ok(LoadOptions::from(Option::from(self.dtype)).with_quantize(self.quantization.asked(Vec::new())?))
    }

    /// The type, for a model whose config.json alone is read: `auto` is the one it names.
    pub fn of(&self, dir: &Path) -> Result<FloatDType> {
        Ok(match self.dtype.into() {
            Some(dtype) => dtype,
            None => LlamaConfig::from_dir(dir)?.dtype.into(),
        })
    }
}

fn quantization_parser() -> impl TypedValueParser<Value = QuantizationKind> {
    let of = |name: String| QuantizationKind::ALL.into_iter().find(|kind| kind.name() == name);
    let of = move |name: String| of(name).unwrap_or(QuantizationKind::None);
    PossibleValuesParser::new(QuantizationKind::ALL.map(QuantizationKind::name)).map(of)
}

pub fn dtype_parser() -> impl TypedValueParser<Value = LoadDtype> {
    let of = |name: String| LoadDtype::ALL.into_iter().find(|dtype| dtype.name() == name).unwrap_or_default();
    PossibleValuesParser::new(LoadDtype::ALL.map(LoadDtype::name)).map(of)
}

impl ModelArgs {
    /// Loads the model and puts the adapter on it.
    pub fn load(&self) -> Result<Base> {
        let device = self.device.open()?;
        if let Some(adapter) = &self.adapter {
            check_adapter_dir(adapter)?;
        }
        let mut base = Base::load(&self.model, self.dtype.options()?, &device)?;
        base.warnings.iter().for_each(warn);
        if let Some(adapter) = &self.adapter {
            base.model.load_adapter(adapter, ADAPTER, false)?.iter().for_each(warn);
            let own = base.take_text_from_adapter(adapter)?;
            if !own.is_empty() {
                warn(format_args!("the adapter's own {} take the place of the model's", own.join(", ")));
            }
        }
        base.beyond_vocabulary().iter().for_each(warn);
        Ok(base)
    }
}

/// A JSON object on the command line.
pub fn object(text: &str) -> std::result::Result<Map<String, Value>, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("it must be a JSON object, such as '{{\"enable_thinking\": false}}': {error}"))
}

/// The folders in `dir` that hold an adapter.
fn within(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.join("adapter_config.json").exists()).collect();
    found.sort();
    found
}

/// Refuses a directory without an adapter in it, before a model is loaded for nothing.
pub fn check_adapter_dir(dir: &Path) -> Result {
    if dir.join("adapter_config.json").exists() {
        return Ok(());
    }
    let inner = dir.join("adapter");
    let way_out = if inner.join("adapter_config.json").exists() {
        format!("this folder is a run's; its adapter is `{}`", inner.display())
    } else if let [one, ..] = within(dir).as_slice() {
        // PEFT writes an adapter under another name than `default` into a folder of that name, Transformers into `checkpoint-N`.
        let all: Vec<_> = within(dir).iter().map(|folder| format!("`{}`", folder.display())).collect();
        format!("there are adapters in it: {}; give one of them, such as {}", all.join(", "), one.display())
    } else if dir.join("config.json").exists() {
        "this folder is a model's: give it as --model, or make an adapter of what it learned with `peft convert --from-model`"
            .to_owned()
    } else {
        "give a folder with adapter_config.json and adapter_model.safetensors (or adapter_model.bin)".to_owned()
    };
    Err(Failure::new(format!("`{}` is not an adapter: it has no adapter_config.json", dir.display()), way_out))
}
