//! The files of a checkpoint, and whether their tensors are those of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Tensor};
use peft_burn::tensor_file::TensorFile;

use super::{INDEX, SINGLE};
use crate::config::LlamaConfig;
use crate::error::{LlamaError, Result};

/// The open files of one checkpoint.
pub(crate) struct Checkpoint {
    pub(crate) files: Vec<TensorFile>,
    /// Which file holds a tensor.
    place: BTreeMap<String, usize>,
}

impl Checkpoint {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(SINGLE);
        let index = dir.join(INDEX);
        let paths: Vec<PathBuf> = if single.exists() || !index.exists() {
            vec![single]
        } else {
            let text = std::fs::read_to_string(&index).map_err(LlamaError::io(&index))?;
            let json: serde_json::Value =
                serde_json::from_str(&text).map_err(|source| LlamaError::Json { path: index.clone(), source })?;
            let map = json.get("weight_map").and_then(|m| m.as_object());
            let names: BTreeSet<&str> = map.into_iter().flatten().filter_map(|(_, file)| file.as_str()).collect();
            if names.is_empty() {
                return Err(LlamaError::Safetensors { path: index, message: "it has no weight_map".into() });
            }
            names.into_iter().map(|name| dir.join(name)).collect()
        };
        let missing: Vec<_> = paths.iter().filter(|p| !p.exists()).map(|p| p.display().to_string()).collect();
        if !missing.is_empty() {
            return Err(LlamaError::MissingFiles { files: missing });
        }
        let files = paths.iter().map(|p| TensorFile::open(p)).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut place = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            place.extend(file.names().map(|name| (name.to_owned(), i)));
        }
        Ok(Self { files, place })
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.place.get(name).and_then(|&i| self.files[i].shape(name))
    }

    pub(super) fn read<const D: usize>(
        &self,
        name: &str,
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<Tensor<D>> {
        let file = self.place.get(name).map(|&i| &self.files[i]);
        let file = file.ok_or_else(|| LlamaError::MissingFiles { files: vec![name.into()] })?;
        let data = match dtype {
            Some(dtype) => file.read_as(name, dtype.into())?,
            None => file.read(name)?,
        };
        let dtype = data.dtype();
        check_dtype(dtype, device)?;
        Ok(Tensor::from_data(data, (device, dtype)))
    }
}

/// Refuses a dtype that `device` does not support.
pub(crate) fn check_dtype(dtype: DType, device: &Device) -> Result<()> {
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    Err(LlamaError::UnsupportedDtype { device: format!("{device:?}"), dtype: dtype.name().to_owned() })
}

/// Compares names and shapes with what the configuration asks for, before anything is read.
pub(crate) fn check(dir: &Path, config: &LlamaConfig, checkpoint: &Checkpoint) -> Result<()> {
    let expected = config.tensor_shapes();
    let mut missing = Vec::new();
    let mut misshapen = Vec::new();
    for (name, shape) in &expected {
        match checkpoint.shape(name) {
            None => missing.push(name.clone()),
            Some(found) if found != shape => misshapen.push(format!("{name} is {found:?}, expected {shape:?}")),
            Some(_) => {}
        }
    }
    // Old checkpoints carry the rotary table, and tied ones may repeat the head.
    let known =
        |name: &str| name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight");
    let unexpected: Vec<_> =
        checkpoint.place.keys().filter(|n| !expected.contains_key(*n) && !known(n)).cloned().collect();
    if missing.is_empty() && misshapen.is_empty() && unexpected.is_empty() {
        return Ok(());
    }
    Err(LlamaError::Tensors { path: dir.to_owned(), missing, unexpected, misshapen })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dtype_that_the_device_lacks_is_refused_by_name() {
        let device = Device::flex();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            assert!(check_dtype(dtype, &device).is_ok());
        }
        let error = check_dtype(DType::Flex32, &device).map_err(|e| e.to_string());
        assert!(matches!(error, Err(text) if text.contains("does not support flex32; load the model as f32")));
    }
}
