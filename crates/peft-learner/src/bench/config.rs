//! The settings of a measurement.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use llama_burn::Quantize;

use super::method::BenchMethod;

/// A measurement: the model, the method, and the sizes of its batches.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// A Hugging Face model folder.
    pub model: PathBuf,
    /// Takes the folder's `config.json` alone and makes the weights up.
    pub random: bool,
    /// The method.
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
    /// Whether the base's weights are packed.
    pub quantize: Quantize,
    /// Whether decoder layers run again in backward instead of keeping what it needs.
    pub gradient_checkpointing: bool,
    /// The device it runs on.
    pub device: Device,
    /// The name that the user gives the device.
    pub device_name: String,
}
