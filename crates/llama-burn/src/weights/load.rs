//! A model from a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use fused_burn::{PackedWeight, Weight};

use super::checkpoint::{Checkpoint, check_dtype};
use super::fit::{Fit, fit};
use crate::config::LlamaConfig;
use crate::error::{LlamaError, Result};
use crate::gguf;
use crate::model::Llama;
use crate::model::parts::Source;
use crate::quantization::{BaseQuantization, LoadOptions, Quantize};

/// The tensors of a checkpoint whose shapes were checked.
struct Stored<'a> {
    checkpoint: Checkpoint,
    /// By Transformers' names the files'.
    names: BTreeMap<String, String>,
    dtype: Option<FloatDType>,
    /// Whether what is stored packed stays so.
    keeps_packed: bool,
    /// How dense weights are packed.
    packs: Option<BaseQuantization>,
    device: &'a Device,
}

impl Stored<'_> {
    fn name<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.get(name).map_or(name, String::as_str)
    }

    /// The weight of a projection, packed.
    fn quantized(&self, name: &str, how: &BaseQuantization) -> Result<Weight> {
        let data = self.checkpoint.data(self.name(name), None)?;
        let dtype = self.dtype.map_or(data.dtype(), DType::from);
        check_dtype(dtype, self.device)?;
        let stored = data.dtype();
        let weight = Tensor::<2>::from_data(data, (&Device::flex(), stored));
        let packed = PackedWeight::quantize(weight, how.of_weight(), dtype, self.device);
        packed.map(Weight::Packed).map_err(|error| LlamaError::Quantization { tensor: name.to_owned(), error })
    }
}

impl Source for Stored<'_> {
    type Error = LlamaError;

    fn tensor<const D: usize>(&mut self, name: &str, _: [usize; D]) -> Result<Tensor<D>> {
        self.checkpoint.read(self.name(name), self.dtype, self.device)
    }

    fn weight(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        if self.keeps_packed
            && let Some(packed) = self.checkpoint.packed(self.name(name), self.dtype.map(Into::into), self.device)?
        {
            check_dtype(packed.layout().dtype, self.device)?;
            return Ok(packed.into());
        }
        let path = name.strip_suffix(".weight").unwrap_or(name);
        match self.packs.as_ref().filter(|how| how.packs(path)) {
            Some(how) => self.quantized(name, how),
            None => Ok(self.tensor(name, shape)?.into()),
        }
    }
}

impl Llama {
    /// Loads a Hugging Face model directory, or a GGUF file, of any supported family. `dtype` is that of the weights in memory; `None` keeps the file's. What the user
    /// should know is told as events of `tracing`; [`Self::load`] returns it.
    ///
    /// The files are copied tensor by tensor, so that the weights are in memory once. What is stored packed (a GGUF file's
    /// blocks, bitsandbytes' codes) stays packed.
    ///
    /// # Errors
    /// A file that is missing or broken, a configuration of another architecture, and tensors that do not fit it: all
    /// missing, unexpected and misshapen ones at once; a dtype that the device does not support.
    pub fn from_dir(dir: impl AsRef<Path>, dtype: Option<FloatDType>, device: &Device) -> Result<Self> {
        let (model, warnings) = Self::load(dir, &dtype.into(), device)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(model)
    }

    /// As [`Self::from_dir`], with weights packed as `options` say. Also returns what the user should know: names that are spelled
    /// otherwise, tensors that are not used, and a head that differs from the embedding it is said to be tied to (which is used, as
    /// in Transformers 5).
    ///
    /// # Errors
    /// As [`Self::from_dir`], and weights that cannot be quantised.
    pub fn load(dir: impl AsRef<Path>, options: &LoadOptions, device: &Device) -> Result<(Self, Vec<String>)> {
        let dir = &gguf::directory(dir.as_ref())?;
        let config = LlamaConfig::from_dir(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        let Fit { config, names, warnings } = fit(dir, config, &checkpoint)?;
        let (keeps_packed, packs) = match &options.quantize {
            Quantize::AsStored => (true, BaseQuantization::of_dir(dir)?),
            Quantize::Dense => (false, None),
            Quantize::To(how) => (false, Some(how.clone())),
        };
        let source = Stored { checkpoint, names, dtype: options.dtype, keeps_packed, packs, device };
        Ok((Self::build(config, source)?, warnings))
    }
}
