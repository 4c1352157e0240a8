//! A model as a Hugging Face checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use fused_burn::Weight;
use peft_burn::tensor_file::{write_atomic, write_tensors};

use super::checkpoint::{INDEX, SINGLE};
use crate::config::{Dtype, LlamaConfig};
use crate::error::{LlamaError, Result};
use crate::model::Llama;
use crate::model::parts::PartRef;
use crate::quantization::tensors_of;

/// The size above which Transformers splits a checkpoint.
const SHARD_BYTES: usize = 5_000_000_000;

/// A weight of the base, which is copied out of the model, and decoded, when its numbers are asked for.
pub(crate) struct NamedWeight<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    Matrix(Box<Weight>),
    Vector(&'a Param<Tensor<1>>),
}

impl<'a> NamedWeight<'a> {
    fn matrix(name: String, weight: Weight) -> Self {
        Self { name, shape: weight.dims().to_vec(), values: Values::Matrix(Box::new(weight)) }
    }

    fn vector(name: String, param: &'a Param<Tensor<1>>) -> Self {
        Self { name, shape: param.val().dims().to_vec(), values: Values::Vector(param) }
    }

    pub fn read(&self) -> TensorData {
        match &self.values {
            Values::Matrix(weight) => weight.dense().into_data(),
            Values::Vector(param) => param.val().into_data(),
        }
    }

    /// The tensors that a packed weight is in bitsandbytes' files; any other one is itself.
    fn stored(&self) -> Vec<(String, TensorData)> {
        let packed = match &self.values {
            Values::Matrix(weight) => match &**weight {
                Weight::Packed(packed) => tensors_of(&self.name, packed),
                Weight::Dense(_) => None,
            },
            Values::Vector(_) => None,
        };
        packed.unwrap_or_else(|| vec![(self.name.clone(), self.read())])
    }
}

impl Llama {
    /// Every weight of the base by its Hugging Face name, with what is merged into it. A tied head is left out; packed weights
    /// are decoded.
    pub fn named_weights(&self) -> Vec<(String, TensorData)> {
        self.weights().into_iter().map(|weight| (weight.name.clone(), weight.read())).collect()
    }

    /// As [`Self::named_weights`], with packed weights as bitsandbytes' files hold them.
    pub(crate) fn stored_weights(&self) -> Vec<(String, TensorData)> {
        self.weights().iter().flat_map(NamedWeight::stored).collect()
    }

    /// As [`Self::named_weights`], to be read one by one.
    pub(crate) fn weights(&self) -> Vec<NamedWeight<'_>> {
        let mut all = Vec::new();
        for (path, part) in self.parts() {
            let weight = format!("{path}.weight");
            match part {
                PartRef::Linear(_) if path == "lm_head" && self.config().tie_word_embeddings => {}
                PartRef::Embedding(embedding) => all.push(NamedWeight::matrix(weight, embedding.base().val())),
                PartRef::Norm(norm) => all.push(NamedWeight::vector(weight, norm.gain().base())),
                PartRef::Linear(linear) => {
                    let base = linear.base();
                    all.push(NamedWeight::matrix(weight, base.weight.val()));
                    all.extend(base.bias.iter().map(|bias| NamedWeight::vector(format!("{path}.bias"), bias)));
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
        Ok(write_atomic(dir.join("config.json"), config.as_bytes())?)
    }

    /// The weights alone, as [`Self::save`] writes them. Returns their dtype on disk.
    pub(crate) fn save_weights(&self, dir: &Path, dtype: Option<FloatDType>) -> Result<Dtype> {
        let convert = |data: TensorData| match dtype {
            Some(dtype) => data.convert_dtype(dtype.into()),
            None => data,
        };
        let all = self.named_weights().into_iter().map(|(name, data)| (name, convert(data))).collect();
        save_tensors(dir, all)
    }
}

/// Writes tensors in shards of at most 5 GB. Returns the dtype of the last float among them.
pub(crate) fn save_tensors(dir: &Path, tensors: Vec<(String, TensorData)>) -> Result<Dtype> {
    std::fs::create_dir_all(dir).map_err(LlamaError::io(dir))?;
    let mut shards: Vec<BTreeMap<String, TensorData>> = vec![BTreeMap::new()];
    let (mut total, mut filled, mut stored) = (0, 0, DType::F32);
    for (name, data) in tensors {
        if data.dtype().is_float() {
            stored = data.dtype();
        }
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
        write_tensors(dir.join(SINGLE), only, &[])?;
    } else {
        let count = shards.len();
        let mut map = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
            write_tensors(dir.join(&file), shard, &[])?;
            map.extend(shard.keys().map(|name| (name.clone(), file.clone())));
        }
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
        write_atomic(dir.join(INDEX), format!("{index:#}\n").as_bytes())?;
    }
    Ok(match stored {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::Bf16,
        _ => Dtype::F32,
    })
}
