//! AdaLoRA's averages over the triplets, as the one part of a [`ParamAdapter`] that is not in its model: a module
//! whose records carry it.

use burn::module::{Module, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use super::layers::AdaptedLayers;
use super::param_adapter::ParamAdapter;
use crate::layers::linear::PeftLinear;
use crate::methods::Importance;

impl ParamAdapter {
    fn with(self, f: impl FnOnce(AdaptedLayers) -> AdaptedLayers) -> Self {
        Self { layers: f(self.layers), ..self }
    }
}

/// A layer's averages and mask.
fn importance(layer: &PeftLinear) -> Option<&Importance> {
    layer.adapters().get(ParamAdapter::NAME)?.method.as_ref()?.importance()
}

fn importance_mut(layer: &mut PeftLinear) -> Option<&mut Importance> {
    layer.adapters_mut().get_mut(ParamAdapter::NAME)?.method.as_mut()?.importance_mut()
}

/// The kind of container that Burn's visitors are told of.
const CONTAINER: &str = "Struct:ParamAdapter";

impl Module for ParamAdapter {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.layers.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.with(|layers| layers.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.with(|layers| layers.to_device(device))
    }

    fn train(self) -> Self {
        self.with(Module::train)
    }

    fn valid(&self) -> Self {
        Self { layers: self.layers.valid(), ..self.clone() }
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (path, layer) in self.layers.linear_paths().iter().zip(&self.layers.layers) {
            let Some(importance) = importance(layer) else { continue };
            visitor.enter_module(path, CONTAINER);
            importance.visit(visitor);
            visitor.exit_module(path, CONTAINER);
        }
    }

    fn map<F: ModuleMapper>(mut self, mapper: &mut F) -> Self {
        for (path, layer) in self.layers.linear_paths().iter().zip(&mut self.layers.layers) {
            let Some(importance) = importance_mut(layer) else { continue };
            mapper.enter_module(path, CONTAINER);
            *importance = importance.clone().map(mapper);
            mapper.exit_module(path, CONTAINER);
        }
        self
    }
}
