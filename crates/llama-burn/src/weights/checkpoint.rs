//! The files of a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use peft_burn::tensor_file::TensorFile;

use crate::error::{LlamaError, Result};

/// The file of a checkpoint that is not split.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Which file of a split checkpoint holds which tensor.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// As [`SINGLE`], of `torch.save`.
pub(crate) const BIN: &str = "pytorch_model.bin";
/// As [`INDEX`], of `torch.save`.
pub(crate) const BIN_INDEX: &str = "pytorch_model.bin.index.json";

/// The open files of one checkpoint.
pub(crate) struct Checkpoint {
    pub(crate) files: Vec<TensorFile>,
    /// Which file holds a tensor.
    place: BTreeMap<String, usize>,
}

impl Checkpoint {
    /// Opens the weights in `dir`: the first there is of what Transformers looks for.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let at = |name: &str| Some(dir.join(name)).filter(|path| path.exists());
        let whole = |name: &str| -> Option<Result<Vec<PathBuf>>> { at(name).map(|path| Ok(vec![path])) };
        let split = |name: &str| -> Option<Result<Vec<PathBuf>>> {
            at(name).map(|index| Ok(shards(&index)?.into_iter().map(|name| dir.join(name)).collect()))
        };
        let found = whole(SINGLE).or_else(|| split(INDEX)).or_else(|| whole(BIN)).or_else(|| split(BIN_INDEX));
        let paths = found.unwrap_or_else(|| Err(no_weights(dir)))?;
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

    /// The names of all tensors, as the files have them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// The file that holds the tensor `name`.
    pub(super) fn file_of(&self, name: &str) -> Option<&TensorFile> {
        self.place.get(name).map(|&i| &self.files[i])
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.file_of(name).and_then(|file| file.shape(name))
    }

    /// The values of a tensor by its name in the files, in `dtype` or their own.
    pub(super) fn data(&self, name: &str, dtype: Option<DType>) -> Result<TensorData> {
        let file = self.file_of(name).ok_or_else(|| LlamaError::MissingFiles { files: vec![name.into()] })?;
        Ok(match dtype {
            Some(dtype) => file.read_as(name, dtype)?,
            None => file.read(name)?,
        })
    }

    pub(super) fn read<const D: usize>(
        &self,
        name: &str,
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<Tensor<D>> {
        let data = self.data(name, dtype.map(Into::into))?;
        let dtype = data.dtype();
        check_dtype(dtype, device)?;
        Ok(Tensor::from_data(data, (device, dtype)))
    }
}

/// The shards that an index names.
///
/// # Errors
/// An index that cannot be read, names no file, or one in another folder.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(index).map_err(LlamaError::io(index))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(LlamaError::json(index))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let names: BTreeSet<&str> = map.into_iter().flatten().filter_map(|(_, file)| file.as_str()).collect();
    // A shard lies beside its index: a name with a directory in it could point anywhere.
    let strange = names.iter().any(|name| name.contains(['/', '\\']) || name.starts_with('.'));
    if names.is_empty() || strange {
        let message = "its weight_map must give every tensor the name of a file in the same directory".to_string();
        return Err(LlamaError::Weights { path: index.to_path_buf(), message });
    }
    Ok(names.into_iter().map(str::to_string).collect())
}

/// A folder without weights that can be read; of weights in another format it says which.
fn no_weights(dir: &Path) -> LlamaError {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let others = [
        (".gguf", "GGUF, which holds quantised weights: take the model in safetensors"),
        (".pth", "Meta's own format: convert it with Transformers (convert_llama_weights_to_hf.py)"),
        (".h5", "TensorFlow's: load it in Transformers with from_tf=True and save it again"),
        (".msgpack", "Flax's: load it in Transformers with from_flax=True and save it again"),
        (".npz", "mlx's older format: save it again with mlx_lm.convert, which writes safetensors"),
    ];
    let other = names.iter().find_map(|name| {
        let (_, what) = others.iter().find(|(end, _)| name.ends_with(end))?;
        Some((name, what))
    });
    match other {
        Some((name, what)) => LlamaError::Weights { path: dir.join(name), message: format!("it is {what}") },
        None => LlamaError::MissingFiles { files: vec![format!("{} (or {BIN})", dir.join(SINGLE).display())] },
    }
}

/// Refuses a dtype that `device` does not support.
pub(crate) fn check_dtype(dtype: DType, device: &Device) -> Result<()> {
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    Err(LlamaError::UnsupportedDtype { device: format!("{device:?}"), dtype: dtype.name().to_owned() })
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

    #[test]
    fn weights_in_another_format_are_named_with_the_way_out() {
        let Ok(dir) = tempfile::tempdir() else { return };
        let error = |dir: &Path| Checkpoint::open(dir).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error(dir.path()).contains("model.safetensors (or pytorch_model.bin)"), "{}", error(dir.path()));
        let _ = std::fs::write(dir.path().join("model-Q4_K_M.gguf"), "GGUF");
        let said = error(dir.path());
        assert!(said.contains("model-Q4_K_M.gguf") && said.contains("take the model in safetensors"), "{said}");
    }
}
