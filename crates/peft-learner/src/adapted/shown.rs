//! Which of a model's parameters Burn's optimisers, records and counts see.

use std::collections::BTreeSet;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Int, Tensor};

/// Lets a visitor or mapper see everything but the hidden parameters.
pub(super) struct Shown<'a, V> {
    pub inner: &'a mut V,
    pub hidden: &'a BTreeSet<ParamId>,
}

impl<V: ModuleVisitor> ModuleVisitor for Shown<'_, V> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.hidden.contains(&param.id) {
            self.inner.visit_float(param);
        }
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.inner.visit_int(param);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.inner.visit_bool(param);
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.inner.visit_flag(flag);
    }

    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.inner.enter_module(name, container_type);
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.inner.exit_module(name, container_type);
    }
}

impl<V: ModuleMapper> ModuleMapper for Shown<'_, V> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.hidden.contains(&param.id) { param } else { self.inner.map_float(param) }
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.inner.map_int(param)
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        self.inner.map_bool(param)
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.inner.map_flag(flag)
    }

    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.inner.enter_module(name, container_type);
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.inner.exit_module(name, container_type);
    }
}

/// Freezes every parameter of `model` but `own`. Returns the model, and which parameters are frozen for good and need not
/// be in a record: not running statistics, such as those of batch norm, which change in training.
pub(super) fn freeze_base<M: Module>(model: M, own: &BTreeSet<ParamId>) -> (M, BTreeSet<ParamId>) {
    struct Freeze<'a>(&'a BTreeSet<ParamId>);
    impl ModuleMapper for Freeze<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.0.contains(&param.id) { param } else { param.set_require_grad(false) }
        }
    }
    let mut base = parameters(&model);
    let statistics = running_statistics(&model);
    base.retain(|id| !own.contains(id) && !statistics.contains(id));
    (model.map(&mut Freeze(own)), base)
}

fn parameters<M: Module>(model: &M) -> BTreeSet<ParamId> {
    struct Ids(BTreeSet<ParamId>);
    impl ModuleVisitor for Ids {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.insert(param.id);
        }
    }
    let mut ids = Ids(BTreeSet::new());
    model.visit(&mut ids);
    ids.0
}

/// Burn shows running statistics as parameters that have no more to them than a value: a mapper cannot rename them.
fn running_statistics<M: Module>(model: &M) -> BTreeSet<ParamId> {
    struct Rename;
    impl ModuleMapper for Rename {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            Param::initialized(ParamId::new(), param.base())
        }
    }
    let renamed = parameters(&model.clone().map(&mut Rename));
    parameters(model).intersection(&renamed).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Net {
        linear: Linear,
        norm: BatchNorm,
    }

    #[test]
    fn the_base_is_hidden_and_frozen_and_running_statistics_are_not_hidden() {
        let device = Device::flex().autodiff();
        let net = Net { linear: LinearConfig::new(2, 3).init(&device), norm: BatchNormConfig::new(3).init(&device) };
        let own = BTreeSet::from([net.linear.weight.id]);
        let (net, hidden) = freeze_base(net, &own);
        assert!(net.linear.weight.is_require_grad());
        assert!(!net.norm.gamma.is_require_grad());
        let bias = net.linear.bias.as_ref().map(|bias| bias.id);
        assert_eq!(hidden, bias.into_iter().chain([net.norm.gamma.id, net.norm.beta.id]).collect());
    }
}
