//! The wrapper as a Burn module.

use burn::module::{Module, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use super::place::Place;
use super::shown::Shown;
use super::wrapper::Adapted;

/// The kind of container that Burn's visitors are told of.
const CONTAINER: &str = "Struct:Adapted";

impl<M: Module, P: Place<M>> Module for Adapted<M, P> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.model.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self { model: self.model.fork(device), place: self.place.fork(device), ..self }
    }

    fn to_device(self, device: &Device) -> Self {
        Self { model: self.model.to_device(device), place: self.place.to_device(device), ..self }
    }

    fn train(self) -> Self {
        Self { model: self.model.train(), place: self.place.train(), ..self }
    }

    fn valid(&self) -> Self {
        Self { model: self.model.valid(), place: self.place.valid(), ..self.clone() }
    }

    fn materialize(self) -> Self {
        Self { model: self.model.materialize(), ..self }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("model", CONTAINER);
        self.model.visit(&mut Shown { inner: visitor, hidden: &self.hidden });
        visitor.exit_module("model", CONTAINER);
        visitor.enter_module("adapter", CONTAINER);
        self.place.visit(visitor);
        visitor.exit_module("adapter", CONTAINER);
        visitor.enter_module("steps", CONTAINER);
        self.steps.visit(visitor);
        visitor.exit_module("steps", CONTAINER);
    }

    fn map<F: ModuleMapper>(self, mapper: &mut F) -> Self {
        mapper.enter_module("model", CONTAINER);
        let model = self.model.map(&mut Shown { inner: mapper, hidden: &self.hidden });
        mapper.exit_module("model", CONTAINER);
        mapper.enter_module("adapter", CONTAINER);
        let place = self.place.map(mapper);
        mapper.exit_module("adapter", CONTAINER);
        mapper.enter_module("steps", CONTAINER);
        let steps = self.steps.map(mapper);
        mapper.exit_module("steps", CONTAINER);
        Self { model, place, steps, ..self }
    }
}
