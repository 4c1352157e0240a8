//! The adapters on a model at the moment, in PEFT's terms (`get_layer_status`, `get_model_status`).

use std::collections::BTreeMap;

use super::adapters::PeftModel;
use crate::layers::layer::LayerRef;
use crate::param::ParamRef;

/// Whether the parameters of an adapter are trained (PEFT's `requires_grad`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trained {
    /// All of them.
    Yes,
    /// None of them.
    No,
    /// Some are and some are not.
    Irregular,
}

impl Trained {
    fn of(each: impl IntoIterator<Item = Self>) -> Self {
        let mut each = each.into_iter();
        let first = each.next().unwrap_or(Self::No);
        if each.all(|other| other == first) { first } else { Self::Irregular }
    }
}

impl From<bool> for Trained {
    fn from(trained: bool) -> Self {
        if trained { Self::Yes } else { Self::No }
    }
}

/// The adapters of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStatus {
    /// The layer's path.
    pub name: String,
    /// `Linear`, `Embedding` or `Norm`.
    pub module_type: &'static str,
    /// Whether adapters are switched on.
    pub enabled: bool,
    /// The active adapters of this layer, in order.
    pub active_adapters: Vec<String>,
    /// Adapters that are folded into this layer's weight.
    pub merged_adapters: Vec<String>,
    /// By adapter, whether it is trained.
    pub requires_grad: BTreeMap<String, Trained>,
    /// All adapters that this layer has.
    pub available_adapters: Vec<String>,
}

/// The adapters of a whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStatus {
    /// The model's type, as `AdaptableModel::model_type`.
    pub base_model_type: String,
    /// By adapter, PEFT's `peft_type`.
    pub peft_types: BTreeMap<String, &'static str>,
    /// Parameters that training changes.
    pub trainable_params: usize,
    /// All parameters, frozen ones included.
    pub total_params: usize,
    /// Layers that have an adapter.
    pub num_adapter_layers: usize,
    /// Whether adapters are switched on.
    pub enabled: bool,
    /// The active adapters, in order.
    pub active_adapters: Vec<String>,
    /// The adapters that are folded into the base.
    pub merged_adapters: Vec<String>,
    /// By adapter, whether it is trained.
    pub requires_grad: BTreeMap<String, Trained>,
    /// Layers whose active or merged adapters are not the model's, because they were changed past the model. Where PEFT says
    /// `irregular` for the whole, this says which.
    pub irregular_layers: Vec<String>,
    /// All adapters, alphabetically.
    pub available_adapters: Vec<String>,
}

/// Where the adapters of a model stand. Implemented for every [`PeftModel`].
pub trait AdapterStatus: PeftModel {
    /// The layers that have an adapter, in the model's order.
    fn layer_status(&self) -> Vec<LayerStatus> {
        let trained = |params: Vec<(&str, ParamRef<'_>)>| {
            Trained::of(params.iter().map(|(_, param)| Trained::from(param.requires_grad())))
        };
        let mut all = Vec::new();
        for (name, layer) in self.layers() {
            let adapters: Vec<(String, Trained)> =
                layer.all_params().into_iter().map(|(name, params)| (name.to_owned(), trained(params))).collect();
            let module_type = match layer {
                LayerRef::Linear(_) => "Linear",
                LayerRef::Embedding(_) => "Embedding",
                LayerRef::Norm(_) => "Norm",
            };
            if adapters.is_empty() {
                continue;
            }
            let here = |names: &[String]| -> Vec<String> {
                names.iter().filter(|name| adapters.iter().any(|(n, _)| n == *name)).cloned().collect()
            };
            let [active, merged] = layer.active_and_merged();
            // Adapters that `enable_adapters` will make active again count as active.
            let active = if self.adapters_disabled() { self.active_adapters() } else { active };
            all.push(LayerStatus {
                name,
                module_type,
                enabled: !self.adapters_disabled(),
                active_adapters: here(active),
                merged_adapters: here(merged),
                available_adapters: adapters.iter().map(|(name, _)| name.clone()).collect(),
                requires_grad: adapters.into_iter().collect(),
            });
        }
        all
    }

    /// The model as a whole.
    fn model_status(&self) -> ModelStatus {
        let layers = self.layer_status();
        let names = self.adapter_names();
        let peft_type = |name: &String| Some((name.clone(), self.adapter_config(name).ok()?.peft_type()));
        let requires_grad =
            |name: &String| Trained::of(layers.iter().filter_map(|layer| layer.requires_grad.get(name).copied()));
        let merged_adapters = if self.adapters_disabled() { &[][..] } else { self.merged_adapters() };
        let mixed = !self.adapters_by_row().is_empty();
        let active = if self.adapters_disabled() || mixed { &[][..] } else { self.active_adapters() };
        let irregular = |layer: LayerRef<'_>| layer.active_and_merged() != [active, merged_adapters];
        let report = self.trainable_parameters();
        ModelStatus {
            base_model_type: self.model_type().to_owned(),
            peft_types: names.iter().filter_map(peft_type).collect(),
            trainable_params: report.trainable,
            total_params: report.all,
            num_adapter_layers: layers.len(),
            enabled: !self.adapters_disabled(),
            active_adapters: self.active_adapters().to_vec(),
            merged_adapters: merged_adapters.to_vec(),
            requires_grad: names.iter().map(|name| (name.clone(), requires_grad(name))).collect(),
            irregular_layers: self.layers().into_iter().filter(|(_, l)| irregular(*l)).map(|(path, _)| path).collect(),
            available_adapters: names,
        }
    }
}

impl<M: PeftModel> AdapterStatus for M {}
