//! An adapter of a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use fused_burn::Weight;

use super::projection::Projection;
use crate::layers::named_adapters::LayerAdapter;
use crate::layers::trained_rows::{self, TRAINED_ROWS, TrainableTokens, own_name};
use crate::methods::Method;
use crate::param::{ParamMut, ParamRef};

/// The parts of one adapter for one linear layer.
#[derive(Module, Debug)]
pub struct LinearAdapter {
    /// The adapter proper; `None` for a layer that only has a trained bias or a trained copy.
    pub method: Option<Method>,
    /// A trained bias (PEFT's `bias = "all"` or `"lora_only"`), which stands in for the base's.
    pub bias: Option<Param<Tensor<1>>>,
    /// A weight that stands in for the base's: a trained copy (`modules_to_save`), or the frozen residual of an
    /// initialisation that moved a part of the weight into the adapter, or beside trained rows the frozen matrix that they
    /// belong to (of a resized vocabulary).
    pub weight: Option<Param<Tensor<2>>>,
    /// Trained rows of a head that no method is on.
    pub tokens: Option<TrainableTokens>,
    /// Whether the weight is only used, and not trained: it was saved beside the adapter.
    pub frozen: bool,
}

impl LinearAdapter {
    /// An adapter of one method.
    pub fn new(method: Method) -> Self {
        Self { method: Some(method), bias: None, weight: None, tokens: None, frozen: false }
    }

    /// A trained copy of the whole layer (`modules_to_save`).
    pub fn copy_of(base: &Projection) -> Self {
        Self {
            method: None,
            bias: base.bias.as_ref().map(|b| Param::from_tensor(b.val().detach().cast(DType::F32))),
            weight: Some(Param::from_tensor(base.weight.val().dense().detach().cast(DType::F32))),
            tokens: None,
            frozen: false,
        }
    }

    /// A trained bias alone.
    pub fn of_bias(bias: Param<Tensor<1>>) -> Self {
        Self { method: None, bias: Some(bias), weight: None, tokens: None, frozen: false }
    }

    /// `weight` (`[out, in]`), which the adapter was made for, with its trained rows.
    pub(crate) fn put_rows_into(&self, weight: Weight) -> Weight {
        match &self.tokens {
            Some(tokens) => Weight::Dense(tokens.put_into(weight.dense())),
            None => weight,
        }
    }
}

impl LayerAdapter for LinearAdapter {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        let mut all = self.method.as_ref().map(|method| method.params()).unwrap_or_default();
        let adapted = self.method.is_some();
        all.extend(self.bias.iter().map(|b| (bias_name(adapted), ParamRef::from(b))));
        all.extend(self.tokens.iter().map(|t| (TRAINED_ROWS, ParamRef::from(&t.rows))));
        let name = own_name(self.tokens.is_some());
        all.extend(self.weight.iter().filter(|_| !adapted).map(|w| (name, ParamRef::from(w))));
        all
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let adapted = self.method.is_some();
        let mut all = self.method.as_mut().map(|method| method.params_mut()).unwrap_or_default();
        all.extend(self.bias.iter_mut().map(|b| (bias_name(adapted), ParamMut::from(b))));
        let name = own_name(self.tokens.is_some());
        all.extend(self.tokens.iter_mut().map(|t| (TRAINED_ROWS, ParamMut::from(&mut t.rows))));
        all.extend(self.weight.iter_mut().filter(|_| !adapted).map(|w| (name, ParamMut::from(w))));
        all
    }

    fn prepare_training(&mut self) {
        self.method.iter_mut().for_each(|method| method.prepare_training());
    }

    fn never_trained(&self) -> &'static [&'static str] {
        trained_rows::never_trained(self.tokens.is_some(), self.frozen)
    }
}

/// PEFT wraps an adapted layer, so that its bias lies one level down.
fn bias_name(adapted: bool) -> &'static str {
    if adapted { "base_layer.bias" } else { "bias" }
}
