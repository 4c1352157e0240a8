//! A module that computes but takes no part in training.

use std::ops::Deref;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

/// Hides the parameters of `M` from optimisers, parameter counts, records and checkpoints.
///
/// The base of an adapted model is moved between devices and between training and validation like any other module, but
/// Burn's visitors and mappers do not see it: no optimiser walks it, and a checkpoint of the model holds the adapters
/// alone. [`Frozen::thaw`] makes it an ordinary module again, for training all weights.
#[derive(Clone, Debug)]
pub struct Frozen<M> {
    inner: M,
    thawed: bool,
}

impl<M> Frozen<M> {
    /// Wraps `inner`, hidden.
    pub fn new(inner: M) -> Self {
        Self { inner, thawed: false }
    }

    /// Makes the parameters visible to (`true`) or hidden from (`false`) Burn's visitors.
    ///
    /// This does not change which of them require a gradient.
    pub fn thaw(&mut self, thawed: bool) {
        self.thawed = thawed;
    }

    /// The module itself, for loading and merging.
    pub fn inner_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    fn with(self, f: impl FnOnce(M) -> M) -> Self {
        Self { inner: f(self.inner), thawed: self.thawed }
    }
}

impl<const D: usize> Frozen<Param<Tensor<D>>> {
    /// Puts `value` in the parameter's place and returns the one that was there.
    pub(super) fn replace(&mut self, value: Tensor<D>) -> Tensor<D> {
        let old = self.inner.val();
        self.inner = self.inner.clone().map(|_| value);
        old
    }

    /// Makes the parameter trainable and visible to the optimiser, or frozen and hidden.
    pub(super) fn set_trainable(&mut self, trainable: bool) {
        self.thaw(trainable);
        self.inner = self.inner.clone().set_require_grad(trainable);
    }
}

impl<M> Deref for Frozen<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.inner
    }
}

impl<M: Module> Module for Frozen<M> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.inner.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.with(|m| m.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.with(|m| m.to_device(device))
    }

    fn train(self) -> Self {
        self.with(Module::train)
    }

    fn valid(&self) -> Self {
        Self { inner: self.inner.valid(), thawed: self.thawed }
    }

    fn materialize(self) -> Self {
        self.with(Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if self.thawed {
            self.inner.visit(visitor);
        }
    }

    fn map<F: ModuleMapper>(self, mapper: &mut F) -> Self {
        if self.thawed { self.with(|m| m.map(mapper)) } else { self }
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for Frozen<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("frozen", &self.inner).optional()
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Frozen<M> {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::module::Param;
    use burn::tensor::Tensor;

    #[derive(Module, Debug)]
    struct Toy {
        base: Frozen<Param<Tensor<2>>>,
        head: Param<Tensor<1>>,
    }

    #[test]
    fn hidden_parameters_are_not_counted_but_follow_train_and_valid() {
        let device = Device::flex();
        let toy = Toy {
            base: Frozen::new(Param::from_tensor(Tensor::ones([2, 3], &device)).set_require_grad(false)),
            head: Param::from_tensor(Tensor::ones([4], &device)),
        };
        assert_eq!(Module::num_params(&toy), 4);
        let mut toy = toy.train();
        assert!(toy.base.val().is_autodiff());
        assert!(!toy.base.val().is_require_grad());
        assert!(!toy.valid().base.val().is_autodiff());
        toy.base.thaw(true);
        assert_eq!(Module::num_params(&toy), 10);
    }
}
