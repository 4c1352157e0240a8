//! A model from a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, FloatDType, Tensor};

use super::checkpoint::Checkpoint;
use super::fit::{Fit, fit};
use crate::config::LlamaConfig;
use crate::error::{LlamaError, Result};
use crate::gguf;
use crate::model::Llama;
use crate::model::parts::Source;

/// The tensors of a checkpoint whose shapes were checked.
struct Stored<'a> {
    checkpoint: Checkpoint,
    /// By Transformers' names the files'.
    names: BTreeMap<String, String>,
    dtype: Option<FloatDType>,
    device: &'a Device,
}

impl Source for Stored<'_> {
    type Error = LlamaError;

    fn tensor<const D: usize>(&mut self, name: &str, _: [usize; D]) -> Result<Tensor<D>> {
        let stored = self.names.get(name).map_or(name, String::as_str);
        self.checkpoint.read(stored, self.dtype, self.device)
    }
}

impl Llama {
    /// Loads a Hugging Face model directory, or a GGUF file, of any supported family. `dtype` is that of the weights in memory; `None` keeps the file's. What the user
    /// should know is told as events of `tracing`; [`Self::from_dir_with_warnings`] returns it.
    ///
    /// The files are copied tensor by tensor, so that the weights are in memory once.
    ///
    /// # Errors
    /// A file that is missing or broken, a configuration of another architecture, and tensors that do not fit it: all
    /// missing, unexpected and misshapen ones at once; a dtype that the device does not support.
    pub fn from_dir(dir: impl AsRef<Path>, dtype: Option<FloatDType>, device: &Device) -> Result<Self> {
        let (model, warnings) = Self::from_dir_with_warnings(dir, dtype, device)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(model)
    }

    /// As [`Self::from_dir`], with what the user should know: names that are spelled otherwise, tensors that are not used, and
    /// a head that differs from the embedding it is said to be tied to (which is used, as in Transformers 5).
    ///
    /// # Errors
    /// As [`Self::from_dir`].
    pub fn from_dir_with_warnings(
        dir: impl AsRef<Path>,
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<(Self, Vec<String>)> {
        let dir = &gguf::directory(dir.as_ref())?;
        let config = LlamaConfig::from_dir(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        let Fit { config, names, warnings } = fit(dir, config, &checkpoint)?;
        Ok((Self::build(config, Stored { checkpoint, names, dtype, device })?, warnings))
    }
}
