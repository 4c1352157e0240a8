//! A model as a directory of packed weights.

use std::path::Path;

use burn::tensor::{DType, Device, FloatDType};
use fused_burn::Weight;

use super::config::BaseQuantization;
use super::options::{LoadOptions, Quantize};
use crate::error::{LlamaError, Result};
use crate::gguf;
use crate::merge::{part_of, put_in_place, write_beside};
use crate::model::Llama;
use crate::model::parts::PartRef;
use crate::weights::{Checkpoint, save_tensors};

/// The results of quantising a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizeReport {
    /// Projections that were packed.
    pub packed_modules: usize,
    /// Bytes of all weights.
    pub bytes: usize,
    /// Notes for the user.
    pub warnings: Vec<String>,
}

/// Writes the model `base` (a Hugging Face directory or a GGUF file) to the directory `output` with the weights of projections packed
/// as bitsandbytes does it: Transformers opens it with `AutoModelForCausalLM.from_pretrained`. `dtype` is that of all other weights,
/// and the one that packed values are decoded to; `None` keeps the files'. The tokenizer's files are copied.
///
/// # Errors
/// An `output` that is not empty; a base that cannot be loaded; weights that cannot be quantised; a file that cannot be written.
/// `output` is then as it was.
pub fn quantize_into(
    base: impl AsRef<Path>,
    output: impl AsRef<Path>,
    how: &BaseQuantization,
    dtype: Option<FloatDType>,
    device: &Device,
) -> Result<QuantizeReport> {
    let (base, output) = (&*gguf::directory(base.as_ref())?, output.as_ref());
    let part = part_of(output)?;
    let options = LoadOptions::from(dtype).with_quantize(Quantize::To(how.clone()));
    let (model, warnings) = Llama::load(base, &options, device)?;
    let packed = model.packed_weights();
    let decoded = packed.first().map_or(DType::F32, |(_, weight)| weight.dtype());
    let tensors = model.stored_weights();
    let bytes = tensors.iter().map(|(_, data)| data.as_bytes().len()).sum();
    let changed = vec![("quantization_config", how.to_json(decoded))];
    put_in_place(&part, output, || {
        let dtype = save_tensors(&part, tensors)?;
        let mut changed = changed;
        changed.push(("dtype", dtype.torch_name().into()));
        changed.push(("torch_dtype", serde_json::Value::Null));
        write_beside(base, base, &part, changed)
    })?;
    Ok(QuantizeReport { packed_modules: packed.len(), bytes, warnings })
}

/// Bytes of the weights of the model `dir` where some are stored packed, and stay so when it is loaded; `None` where none is, or where
/// there are no weights.
///
/// # Errors
/// Weights that are there and cannot be read.
pub fn packed_bytes(dir: impl AsRef<Path>) -> Result<Option<usize>> {
    match Checkpoint::open(&gguf::directory(dir.as_ref())?) {
        Ok(checkpoint) => Ok(checkpoint.packed_bytes()),
        Err(LlamaError::MissingFiles { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Llama {
    /// The packed weights with the paths of their modules.
    pub fn packed_weights(&self) -> Vec<(String, Weight)> {
        self.matrices().filter(|(_, weight)| weight.is_packed()).collect()
    }

    /// All matrices with the paths of their modules.
    pub(super) fn matrices(&self) -> impl Iterator<Item = (String, Weight)> {
        self.parts().into_iter().filter_map(|(path, part)| match part {
            PartRef::Linear(linear) => Some((path, linear.base().weight.val())),
            PartRef::Embedding(embedding) => Some((path, embedding.base().val())),
            PartRef::Norm(_) => None,
        })
    }
}
