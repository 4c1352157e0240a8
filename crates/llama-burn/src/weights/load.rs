//! A model from a checkpoint.

use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};

use super::checkpoint::{Checkpoint, check};
use crate::config::LlamaConfig;
use crate::error::{LlamaError, Result};
use crate::model::Llama;
use crate::model::parts::Source;

/// The tensors of a checkpoint whose shapes were checked.
struct Stored<'a> {
    checkpoint: Checkpoint,
    dtype: Option<FloatDType>,
    device: &'a Device,
}

impl Source for Stored<'_> {
    type Error = LlamaError;

    fn tensor<const D: usize>(&mut self, name: &str, _: [usize; D]) -> Result<Tensor<D>> {
        self.checkpoint.read(name, self.dtype, self.device)
    }
}

impl Llama {
    /// Loads a Hugging Face model directory. `dtype` is that of the weights in memory; `None` keeps the file's.
    ///
    /// The files are memory-mapped and copied tensor by tensor, so that the weights are in memory once.
    ///
    /// # Errors
    /// A file that is missing or broken, a configuration of another architecture, and tensors that do not fit it: all
    /// missing, unexpected and misshapen ones at once; a dtype that the device does not support.
    pub fn from_dir(dir: impl AsRef<Path>, dtype: Option<FloatDType>, device: &Device) -> Result<Self> {
        let dir = dir.as_ref();
        let config = LlamaConfig::from_dir(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        check(dir, &config, &checkpoint)?;
        Self::build(config, Stored { checkpoint, dtype, device })
    }
}
