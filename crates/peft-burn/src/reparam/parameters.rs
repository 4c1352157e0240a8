//! The parameters of a model by their paths, to be found, read and written.

use std::any::Any;
use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use super::param::cast_to;

/// The parameters of a model by their paths.
#[derive(Default)]
pub(super) struct Parameters {
    /// Names and container types from the top.
    place: Vec<(String, String)>,
    /// Of linear layers, by the layer's path, in the model's order: `[in, out]`.
    pub weights: Vec<(String, Tensor<2>)>,
    pub biases: BTreeMap<String, Tensor<1>>,
    /// Numbers in every other module.
    pub others: BTreeMap<String, usize>,
    /// Those of adapters, by path.
    pub own: BTreeMap<String, ParamId>,
    pub reparameterized: bool,
}

/// The path at which a visitor is.
fn path(place: &[(String, String)]) -> String {
    place.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.push((name.to_owned(), container_type.to_owned()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.place.iter().any(|(_, container)| container == "Reparameterization") {
            self.reparameterized = true;
            self.own.insert(path(&self.place), param.id);
            return;
        }
        let Some(((name, container), above)) = self.place.split_last() else { return };
        let module = path(above);
        let param: &dyn Any = param;
        if container == "Struct:Linear" && name == "weight" {
            if let Some(weight) = param.downcast_ref::<Param<Tensor<2>>>() {
                self.weights.push((module, weight.base()));
                return;
            }
        } else if container == "Struct:Linear"
            && name == "bias"
            && let Some(bias) = param.downcast_ref::<Param<Tensor<1>>>()
        {
            self.biases.insert(module, bias.base());
            return;
        }
        let numbers = param.downcast_ref::<Param<Tensor<D>>>().map_or(0, |p| p.shape().num_elements());
        *self.others.entry(module).or_default() += numbers;
    }
}

/// The parameters of an adapter in a model, by their names on disk.
pub(super) struct Reader<'a> {
    keys: &'a BTreeMap<String, String>,
    place: Vec<(String, String)>,
    pub one: BTreeMap<String, Param<Tensor<1>>>,
    pub two: BTreeMap<String, Param<Tensor<2>>>,
}

impl<'a> Reader<'a> {
    pub fn new(keys: &'a BTreeMap<String, String>) -> Self {
        Self { keys, place: Vec::new(), one: BTreeMap::new(), two: BTreeMap::new() }
    }
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.push((name.to_owned(), container_type.to_owned()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(key) = self.keys.get(&path(&self.place)) else { return };
        let param: &dyn Any = param;
        if let Some(param) = param.downcast_ref::<Param<Tensor<1>>>() {
            self.one.insert(key.clone(), param.clone());
        } else if let Some(param) = param.downcast_ref::<Param<Tensor<2>>>() {
            self.two.insert(key.clone(), param.clone());
        }
    }
}

/// New values of an adapter's parameters in a model, by path.
pub(super) struct Writer {
    values: BTreeMap<String, Tensor<2>>,
    place: Vec<(String, String)>,
}

impl Writer {
    pub fn new(values: BTreeMap<String, Tensor<2>>) -> Self {
        Self { values, place: Vec::new() }
    }
}

impl ModuleMapper for Writer {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.push((name.to_owned(), container_type.to_owned()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let new = self.values.remove(&path(&self.place)).and_then(cast_to::<_, Tensor<D>>);
        match new {
            Some(new) => param.map(|old| if old.is_require_grad() { new.require_grad() } else { new }),
            None => param,
        }
    }
}
