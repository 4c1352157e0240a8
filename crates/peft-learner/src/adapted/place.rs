//! Where a model has its adapter: in its own layers, or on its parameters.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use peft_burn::adalora::{self, Allocation};
use peft_burn::{AdaptedLayers, LayerRef, ParamAdapter, PeftModel, Result};

/// How [`Adapted`](super::Adapted) reaches the adapter of a model `M`. [`InLayers`] and [`ParamAdapter`] implement it.
pub trait Place<M: Module>: Module + 'static {
    /// The layers with the adapter on them.
    type Layers: PeftModel;

    /// The adapter's name on these layers.
    fn name(&self) -> &str;

    /// Gives `f` the layers as they are in `model`, graph included.
    ///
    /// # Errors
    /// A model that this adapter is not on, and what `f` reports.
    fn read<T>(&self, model: &M, f: impl FnOnce(&Self::Layers) -> Result<T>) -> Result<T>;

    /// AdaLoRA's part of optimiser step `step`, counted from 1, as [`adalora::update_and_allocate`].
    ///
    /// # Errors
    /// As [`adalora::update_and_allocate`].
    fn update_and_allocate(&mut self, model: M, grads: &GradientsParams, step: usize) -> Result<(M, Allocation)>;
}

/// The adapter of that name in the layers of a [`PeftModel`].
#[derive(Module, Debug)]
pub struct InLayers {
    name: String,
}

impl InLayers {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl<M: PeftModel> Place<M> for InLayers {
    type Layers = M;

    fn name(&self) -> &str {
        &self.name
    }

    fn read<T>(&self, model: &M, f: impl FnOnce(&M) -> Result<T>) -> Result<T> {
        f(model)
    }

    fn update_and_allocate(&mut self, mut model: M, grads: &GradientsParams, step: usize) -> Result<(M, Allocation)> {
        let allocation = adalora::update_and_allocate(&mut model, &self.name, grads, step)?;
        Ok((model, allocation))
    }
}

impl<M: Module> Place<M> for ParamAdapter {
    type Layers = AdaptedLayers;

    fn name(&self) -> &str {
        Self::NAME
    }

    fn read<T>(&self, model: &M, f: impl FnOnce(&AdaptedLayers) -> Result<T>) -> Result<T> {
        f(&self.layers(model)?)
    }

    fn update_and_allocate(&mut self, model: M, grads: &GradientsParams, step: usize) -> Result<(M, Allocation)> {
        ParamAdapter::update_and_allocate(self, model, grads, step)
    }
}

/// The parameters of the adapter `name`, AdaLoRA's averages and masks included.
pub(super) fn parameters_of<L: PeftModel>(layers: &L, name: &str) -> BTreeSet<ParamId> {
    struct Ids(BTreeSet<ParamId>);
    impl ModuleVisitor for Ids {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.insert(param.id);
        }
    }
    let mut ids = Ids(BTreeSet::new());
    for (_, layer) in layers.layers() {
        match layer {
            LayerRef::Linear(layer) => layer.adapters().get(name).iter().for_each(|adapter| adapter.visit(&mut ids)),
            LayerRef::Embedding(layer) => layer.adapters().get(name).iter().for_each(|adapter| adapter.visit(&mut ids)),
            LayerRef::Norm(layer) => layer.adapters().get(name).iter().for_each(|adapter| adapter.visit(&mut ids)),
            _ => {}
        }
    }
    ids.0
}
