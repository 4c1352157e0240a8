//! The files of a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use fused_burn::PackedWeight;
use peft_burn::tensor_file::TensorFile;

use crate::error::{LlamaError, Result};
use crate::gguf::{self, Gguf, Places};
use crate::quantization::StoredWeights;

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
    stored: Stored,
}

/// Where the tensors are.
enum Stored {
    Files {
        files: Vec<TensorFile>,
        /// Which file holds a tensor.
        place: BTreeMap<String, usize>,
        /// Those that are packed as bitsandbytes does it.
        packed: StoredWeights,
    },
    Gguf {
        file: Gguf,
        places: Places,
        /// The dtype that holds what is not quantised as it is.
        dtype: DType,
    },
}

impl Checkpoint {
    /// Opens the weights in `dir`: the first there is of what Transformers looks for.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        if let Some(path) = gguf::weights_of(dir)? {
            let file = Gguf::open(&path)?;
            let (places, dtype) = gguf::places(&file)?;
            return Ok(Self { stored: Stored::Gguf { file, places, dtype } });
        }
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
        let files = paths.iter().map(TensorFile::open).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut place = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            place.extend(file.names().map(|name| (name.to_owned(), i)));
        }
        let names: Vec<&str> = place.keys().map(String::as_str).collect();
        let packed = StoredWeights::find(&names, |name| place.get(name).map(|&i| &files[i]))?;
        Ok(Self { stored: Stored::Files { files, place, packed } })
    }

    /// The names of all tensors, as the files have them, but for those that say what a packed weight's codes mean; those of a
    /// GGUF file as Transformers has them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let (files, gguf) = match &self.stored {
            Stored::Files { place, packed, .. } => {
                (Some(place.keys().map(String::as_str).filter(|name| !packed.is_beside(name))), None)
            }
            Stored::Gguf { places, .. } => (None, Some(places.names())),
        };
        files.into_iter().flatten().chain(gguf.into_iter().flatten())
    }

    /// How many files there are.
    pub(crate) fn num_files(&self) -> usize {
        if let Stored::Files { files, .. } = &self.stored { files.len() } else { 1 }
    }

    /// The dtype of a tensor, as safetensors or GGUF names it.
    pub(crate) fn dtype(&self, name: &str) -> Option<String> {
        match &self.stored {
            Stored::Files { packed, .. } => match packed.format(name) {
                Some(format) => Some(format.name().to_uppercase()),
                None => self.file_of(name)?.dtype(name),
            },
            Stored::Gguf { file, places, .. } => Some(file.tensor(places.in_file(name)?)?.kind.name().to_owned()),
        }
    }

    /// How many bytes a tensor takes in its file.
    pub(crate) fn num_bytes(&self, name: &str) -> usize {
        match &self.stored {
            Stored::Files { packed, .. } => {
                let bytes = |name: &str| self.file_of(name).map_or(0, |file| file.num_bytes(name));
                let beside = packed.format(name).map(|_| packed.parts(name));
                bytes(name) + beside.into_iter().flatten().map(|name| bytes(&name)).sum::<usize>()
            }
            Stored::Gguf { file, places, .. } => {
                places.in_file(name).and_then(|name| file.tensor(name)).map_or(0, |info| info.bytes)
            }
        }
    }

    /// The file of safetensors or of `torch.save` that holds the tensor `name`.
    fn file_of(&self, name: &str) -> Option<&TensorFile> {
        let Stored::Files { files, place, .. } = &self.stored else { return None };
        place.get(name).map(|&i| &files[i])
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        match &self.stored {
            Stored::Files { packed, .. } => {
                packed.shape(name).or_else(|| self.file_of(name).and_then(|file| file.shape(name)))
            }
            Stored::Gguf { file, places, .. } => Some(&file.tensor(places.in_file(name)?)?.shape),
        }
    }

    /// Whether a tensor is stored packed in a format that products read.
    fn is_packed(&self, name: &str) -> bool {
        match &self.stored {
            Stored::Files { packed, .. } => packed.format(name).is_some(),
            Stored::Gguf { file, places, .. } => {
                places.in_file(name).and_then(|name| file.tensor(name)).is_some_and(|info| info.kind.packed().is_some())
            }
        }
    }

    /// Bytes of all tensors, where some of them are packed.
    pub(crate) fn packed_bytes(&self) -> Option<usize> {
        let packed = self.names().any(|name| self.is_packed(name));
        packed.then(|| self.names().map(|name| self.num_bytes(name)).sum())
    }

    /// A weight by its name in the files, if it is stored packed in a format that products read. Decoded values are rounded to
    /// `dtype`.
    pub(super) fn packed(&self, name: &str, dtype: Option<DType>, device: &Device) -> Result<Option<PackedWeight>> {
        match &self.stored {
            Stored::Files { packed, .. } => packed.read(name, |name| self.file_of(name), dtype, device),
            Stored::Gguf { file, places, dtype: own } => {
                let Some(&[rows, cols]) = self.shape(name) else { return Ok(None) };
                let Some((format, blocks)) = places.packed(file, name) else { return Ok(None) };
                let made = PackedWeight::from_blocks(format, blocks, [rows, cols], dtype.unwrap_or(*own), device);
                made.map(Some).map_err(|error| file.error(format!("{name}: {error}")))
            }
        }
    }

    /// The values of a tensor by its name in the files, in `dtype` or their own. What is stored packed is decoded.
    pub(super) fn data(&self, name: &str, dtype: Option<DType>) -> Result<TensorData> {
        let missing = || LlamaError::MissingFiles { files: vec![name.into()] };
        if let Stored::Gguf { file, places, dtype: own } = &self.stored {
            let (values, shape) = (places.values(file, name), self.shape(name));
            let (Some(values), Some(shape)) = (values, shape) else { return Err(missing()) };
            return Ok(TensorData::new(values, shape.to_vec()).convert_dtype(dtype.unwrap_or(*own)));
        }
        if let Some(packed) = self.packed(name, dtype, &Device::flex())? {
            return Ok(packed.dense().into_data());
        }
        let file = self.file_of(name).ok_or_else(missing)?;
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
        (".gguf", "GGUF: give the file itself as the model"),
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
        assert!(said.contains("model-Q4_K_M.gguf") && said.contains("give the file itself as the model"), "{said}");
    }
}
