//! An adapted parameter, as Burn's reparameterization.

use std::any::Any;
use std::collections::BTreeMap;

use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::tensor::{DType, Tensor};

use crate::layers::linear::LinearAdapter;

/// An adapted parameter of a linear layer, its weight or its bias.
#[derive(Module, Debug)]
pub struct AdaptedParam {
    pub(super) adapter: LinearAdapter,
}

impl Reparameterization for AdaptedParam {
    const NAME: &'static str = "peft";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let dtype = base.dtype();
        let changed: Option<Tensor<D>> = match cast_to::<_, Tensor<2>>(base.clone()) {
            // Burn's weight is [in, out].
            Some(weight) => cast_to(self.weight(weight.transpose()).transpose()),
            None => self.adapter.bias.as_ref().and_then(|bias| cast_to(bias.val())),
        };
        changed.map_or(base, |value| value.cast(dtype))
    }
}

impl AdaptedParam {
    /// The adapted weight `[out, in]`, in f32.
    fn weight(&self, weight: Tensor<2>) -> Tensor<2> {
        let weight = self.adapter.weight.as_ref().map_or(weight, Param::val);
        let weight = match &self.adapter.method {
            Some(method) => method.merge(weight.clone().cast(DType::F32), &weight.into()),
            None => weight,
        };
        match &self.adapter.tokens {
            Some(tokens) => tokens.put_into(weight),
            None => weight,
        }
    }
}

/// `value` as a `B`, which it is or is not.
pub(super) fn cast_to<A: Any, B: Any>(value: A) -> Option<B> {
    (Box::new(value) as Box<dyn Any>).downcast().ok().map(|value| *value)
}

/// Gives each parameter its part, and freezes it.
pub(super) struct Attach(pub BTreeMap<String, AdaptedParam>);

impl Reparameterizer for Attach {
    type Reparam = AdaptedParam;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<AdaptedParam>) {
        (param.set_require_grad(false), self.0.remove(path))
    }
}
