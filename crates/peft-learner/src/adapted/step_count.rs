//! The number of optimiser steps done, as a module: so that Burn's records carry it.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// It stays on the host, wherever the model moves: no step reads it from a GPU.
#[derive(Clone, Debug)]
pub(super) struct StepCount(Param<Tensor<1, Int>>);

impl StepCount {
    pub fn new() -> Self {
        Self(Param::initialized(ParamId::new(), number(0)))
    }

    pub fn get(&self) -> usize {
        self.0.val().into_data().iter::<i64>().next().map_or(0, |steps| steps as usize)
    }

    pub fn set(&mut self, steps: usize) {
        self.0 = Param::initialized(self.0.id, number(steps));
    }
}

fn number(steps: usize) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::from([steps as i64]), &Device::flex())
}

impl Module for StepCount {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        devices
    }

    fn fork(self, _device: &Device) -> Self {
        self
    }

    fn to_device(self, _device: &Device) -> Self {
        self
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_int(&self.0);
    }

    fn map<F: ModuleMapper>(self, mapper: &mut F) -> Self {
        Self(mapper.map_int(self.0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_record_carries_it() {
        let mut count = StepCount::new();
        count.set(70_000);
        let bytes = count.clone().into_record().into_bytes().unwrap();
        let record = burn::store::ModuleRecord::from_bytes(bytes).unwrap();
        assert_eq!(StepCount::new().try_load_record(record).unwrap().get(), 70_000);
    }
}
