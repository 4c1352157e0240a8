//! New LoRA adapters with given updates.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};

use crate::error::Result;
use crate::layers::layer::LayerRef;
use crate::layers::trained_rows::OWN_VOCABULARY;
use crate::low_rank::LowRank;
use crate::methods::LoraConfig;
use crate::model::{PeftModel, file_key};
use crate::targets::{resolve, with_vocabularies};

/// One layer of a new LoRA adapter.
#[derive(Clone, Debug)]
pub(crate) struct NewLayer {
    pub(crate) update: LowRank,
    /// DoRA's m.
    pub(crate) magnitude: Option<Tensor<1>>,
    /// B's bias.
    pub(crate) bias: Option<Tensor<1>>,
}

/// Adds a LoRA adapter with these layers, by path, and the values of `copied` by their names in a file. What was active
/// stays so.
pub(crate) fn add_lora<M: PeftModel>(
    model: &mut M,
    name: &str,
    config: LoraConfig,
    layers: BTreeMap<String, NewLayer>,
    copied: BTreeMap<String, TensorData>,
) -> Result<()> {
    let mut values = copied;
    for (path, layer) in layers {
        let is_embedding = model.layers().iter().any(|(p, l)| *p == path && matches!(l, LayerRef::Embedding(_)));
        let names =
            if is_embedding { ["lora_embedding_A", "lora_embedding_B"] } else { ["lora_A.weight", "lora_B.weight"] };
        let update = layer.update.at_rank(0);
        let mut put = |suffix, data| values.insert(file_key(&path, suffix), data);
        put(names[0], update.a.into_data());
        put(names[1], update.b.into_data());
        layer.magnitude.into_iter().for_each(|m| drop(put("lora_magnitude_vector", m.detach().into_data())));
        layer.bias.into_iter().for_each(|b| drop(put("lora_B.bias", b.detach().into_data())));
    }
    let active = model.active_adapters().to_vec();
    let own = own_vocabularies(model, &values);
    let mut resolution = resolve(&config.into(), &with_vocabularies(model.modules(), &own), model.model_type())?;
    resolution.own_vocabularies = own;
    model.attach(name, resolution, 0, true)?;
    for (key, mut param) in model.adapter_params_mut(name)? {
        if let Some(data) = values.remove(&key) {
            param.set(data);
        }
    }
    model.set_adapter(&active.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The matrices that trained rows among `values` belong to: the number of their rows by path.
fn own_vocabularies<M: PeftModel>(model: &M, values: &BTreeMap<String, TensorData>) -> BTreeMap<String, usize> {
    let rows = |path: &str| values.get(&file_key(path, OWN_VOCABULARY)).map(|matrix| matrix.shape()[0]);
    model.layers().into_iter().filter_map(|(path, _)| Some((path.clone(), rows(&path)?))).collect()
}
