//! Checkpoints in Hugging Face's layout: one safetensors file, or shards with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use peft_burn::tensor_file::{TensorFile, write_atomic, write_tensors};
use peft_burn::{AdaptableModel, LayerRef};

use crate::config::{Dtype, LlamaConfig};
use crate::error::{LlamaError, Result};
use crate::model::Llama;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The size above which Transformers splits a checkpoint.
const SHARD_BYTES: usize = 5_000_000_000;

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

    fn read<const D: usize>(&self, name: &str, dtype: Option<FloatDType>, device: &Device) -> Result<Tensor<D>> {
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
        Self::build(
            config,
            |name, _| checkpoint.read(name, dtype, device),
            |name, _| checkpoint.read(name, dtype, device),
        )
    }

    /// Every weight of the base by its Hugging Face name, with what is merged into it. A tied head is left out.
    pub fn named_weights(&self) -> Vec<(String, TensorData)> {
        let mut all = vec![("model.norm.weight".to_owned(), self.norm.gain().val().into_data())];
        for (i, layer) in self.layers.iter().enumerate() {
            let norms = [
                ("input_layernorm", &layer.input_layernorm),
                ("post_attention_layernorm", &layer.post_attention_layernorm),
            ];
            all.extend(norms.map(|(n, norm)| (format!("model.layers.{i}.{n}.weight"), norm.gain().val().into_data())));
        }
        for (path, layer) in self.layers() {
            match layer {
                LayerRef::Embedding(e) => all.push((format!("{path}.weight"), e.base().val().into_data())),
                LayerRef::Linear(_) if path == "lm_head" && self.config().tie_word_embeddings => {}
                LayerRef::Linear(l) => {
                    all.push((format!("{path}.weight"), l.base().weight.val().into_data()));
                    all.extend(l.base().bias.iter().map(|b| (format!("{path}.bias"), b.val().into_data())));
                }
            }
        }
        all
    }

    /// Writes `config.json` and the weights, in shards of at most 5 GB, as Hugging Face lays them out. `dtype` is that
    /// of the weights on disk; `None` keeps the one in memory.
    ///
    /// # Errors
    /// A file that cannot be written. Each file is whole or absent.
    pub fn save(&self, dir: impl AsRef<Path>, dtype: Option<FloatDType>) -> Result<()> {
        let dir = dir.as_ref();
        let dtype = self.save_weights(dir, dtype)?;
        let config = LlamaConfig { dtype, ..self.config().clone() };
        let config = format!("{:#}\n", config.to_hf_json());
        Ok(write_atomic(&dir.join("config.json"), config.as_bytes())?)
    }

    /// The weights alone, as [`Self::save`] writes them. Returns their dtype on disk.
    pub(crate) fn save_weights(&self, dir: &Path, dtype: Option<FloatDType>) -> Result<Dtype> {
        std::fs::create_dir_all(dir).map_err(LlamaError::io(dir))?;
        let mut shards: Vec<BTreeMap<String, TensorData>> = vec![BTreeMap::new()];
        let (mut total, mut filled, mut stored) = (0, 0, DType::F32);
        for (name, data) in self.named_weights() {
            let data = dtype.map_or_else(|| data.clone(), |dtype| data.clone().convert_dtype(dtype.into()));
            stored = data.dtype();
            let bytes = data.as_bytes().len();
            if filled > 0 && filled + bytes > SHARD_BYTES {
                shards.push(BTreeMap::new());
                filled = 0;
            }
            (total, filled) = (total + bytes, filled + bytes);
            if let Some(shard) = shards.last_mut() {
                shard.insert(name, data);
            }
        }
        if let [only] = shards.as_slice() {
            write_tensors(&dir.join(SINGLE), only, &[])?;
        } else {
            let count = shards.len();
            let mut map = BTreeMap::new();
            for (i, shard) in shards.iter().enumerate() {
                let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
                write_tensors(&dir.join(&file), shard, &[])?;
                map.extend(shard.keys().map(|name| (name.clone(), file.clone())));
            }
            let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
            write_atomic(&dir.join(INDEX), format!("{index:#}\n").as_bytes())?;
        }
        Ok(match stored {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::Bf16,
            _ => Dtype::F32,
        })
    }
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

impl LlamaConfig {
    /// The tensors that a checkpoint of this shape holds, with their shapes.
    pub fn tensor_shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let hidden = self.hidden_size;
        let mut shapes = BTreeMap::from([
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ]);
        if !self.tie_word_embeddings {
            shapes.insert("lm_head.weight".into(), vec![self.vocab_size, hidden]);
        }
        for i in 0..self.num_hidden_layers {
            let layer = format!("model.layers.{i}");
            shapes.insert(format!("{layer}.input_layernorm.weight"), vec![hidden]);
            shapes.insert(format!("{layer}.post_attention_layernorm.weight"), vec![hidden]);
            for (name, [inp, out], bias) in self.projections() {
                shapes.insert(format!("{layer}.{name}.weight"), vec![out, inp]);
                if bias {
                    shapes.insert(format!("{layer}.{name}.bias"), vec![out]);
                }
            }
        }
        shapes
    }
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
