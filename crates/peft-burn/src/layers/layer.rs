//! A layer that takes adapters, whichever kind it is.

use burn::tensor::{DType, Tensor};

use super::embedding::PeftEmbedding;
use super::linear::PeftLinear;
use super::named_adapters::LayerAdapter;
use super::norm::PeftNorm;
use crate::error::Result;
use crate::param::{ParamMut, ParamRef};

/// A layer that takes adapters.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum LayerRef<'a> {
    /// A linear layer.
    Linear(&'a PeftLinear),
    /// An embedding.
    Embedding(&'a PeftEmbedding),
    /// The vector of a norm.
    Norm(&'a PeftNorm),
}

/// A layer that takes adapters, to change.
#[derive(Debug)]
#[non_exhaustive]
pub enum LayerMut<'a> {
    /// A linear layer.
    Linear(&'a mut PeftLinear),
    /// An embedding.
    Embedding(&'a mut PeftEmbedding),
    /// The vector of a norm.
    Norm(&'a mut PeftNorm),
}

impl<'a> LayerRef<'a> {
    /// The linear layer, if it is one.
    pub fn linear(self) -> Option<&'a PeftLinear> {
        match self {
            Self::Linear(layer) => Some(layer),
            Self::Embedding(_) | Self::Norm(_) => None,
        }
    }

    /// The parameters of each adapter by their names on disk, with the adapter's name.
    pub(crate) fn all_params(self) -> Vec<(&'a str, Vec<(&'static str, ParamRef<'a>)>)> {
        match self {
            Self::Linear(layer) => layer.adapters().iter().map(|(name, a)| (name, a.params())).collect(),
            Self::Embedding(layer) => layer.adapters().iter().map(|(name, a)| (name, a.params())).collect(),
            Self::Norm(layer) => layer.adapters().iter().map(|(name, a)| (name, a.params())).collect(),
        }
    }

    /// The parameters of one adapter by their names on disk. `None` when the layer does not have it.
    pub(crate) fn params(self, name: &str) -> Option<Vec<(&'static str, ParamRef<'a>)>> {
        self.all_params().into_iter().find(|(n, _)| *n == name).map(|(_, params)| params)
    }

    /// The names of the adapter's parameters that are never trained.
    pub(crate) fn never_trained(self, name: &str) -> &'static [&'static str] {
        match self {
            Self::Linear(layer) => layer.adapters().get(name).map(LayerAdapter::never_trained),
            Self::Embedding(layer) => layer.adapters().get(name).map(LayerAdapter::never_trained),
            Self::Norm(layer) => layer.adapters().get(name).map(LayerAdapter::never_trained),
        }
        .unwrap_or_default()
    }

    /// Whether the adapter `name` brings a weight of its own for this layer.
    pub(crate) fn owns_weight(self, name: &str) -> bool {
        match self {
            Self::Linear(layer) => layer.adapters().get(name).is_some_and(|a| a.weight.is_some()),
            Self::Embedding(layer) => layer.adapters().get(name).is_some_and(|a| a.weight.is_some()),
            Self::Norm(layer) => layer.adapters().get(name).is_some(),
        }
    }

    /// How many rows the weight has with the adapter `name`, which may bring another number (a resized vocabulary) than the
    /// base's.
    pub(crate) fn rows(self, name: &str) -> usize {
        let own = match self {
            Self::Linear(layer) => {
                layer.adapters().get(name).and_then(|a| a.weight.as_ref()).map(|w| w.val().dims()[0])
            }
            Self::Embedding(layer) => {
                layer.adapters().get(name).and_then(|a| a.weight.as_ref()).map(|w| w.val().dims()[0])
            }
            Self::Norm(_) => None,
        };
        own.unwrap_or_else(|| match self {
            Self::Linear(layer) => layer.dims()[1],
            Self::Embedding(layer) => layer.dims()[0],
            Self::Norm(_) => 1,
        })
    }

    /// How many rows the base's weight had before any merge.
    pub(crate) fn original_rows(self) -> usize {
        match self {
            Self::Linear(layer) => layer.original_weight().dims()[0],
            Self::Embedding(layer) => layer.original().dims()[0],
            Self::Norm(_) => 1,
        }
    }

    /// Whether the adapter `name` brings a bias of its own for this layer.
    pub(crate) fn owns_bias(self, name: &str) -> bool {
        self.linear().and_then(|layer| layer.adapters().get(name)).is_some_and(|a| a.bias.is_some())
    }

    /// The names that are active here, and those that are merged, whether the layer has them or not.
    pub(crate) fn active_and_merged(self) -> [&'a [String]; 2] {
        match self {
            Self::Linear(layer) => [layer.adapters().active_names(), layer.adapters().merged()],
            Self::Embedding(layer) => [layer.adapters().active_names(), layer.adapters().merged()],
            Self::Norm(layer) => [layer.adapters().active_names(), layer.adapters().merged()],
        }
    }

    /// The dtype of the base's weight.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Linear(layer) => layer.base().weight.val().dtype(),
            Self::Embedding(layer) => layer.base().val().dtype(),
            Self::Norm(layer) => layer.base().val().dtype(),
        }
    }

    /// The weight (of a norm as one row) and bias with the adapters `names` folded in. `None` when none of them touches this layer.
    pub(crate) fn merged_values(self, names: &[String]) -> Option<(Tensor<2>, Option<Tensor<1>>)> {
        match self {
            Self::Linear(layer) => layer.merged_values(names),
            Self::Embedding(layer) => layer.merged_value(names).map(|weight| (weight, None)),
            Self::Norm(layer) => layer.merged_value(names).map(|weight| (weight.unsqueeze(), None)),
        }
    }
}

impl<'a> LayerMut<'a> {
    /// The linear layer, if it is one.
    pub fn linear(self) -> Option<&'a mut PeftLinear> {
        match self {
            Self::Linear(layer) => Some(layer),
            Self::Embedding(_) | Self::Norm(_) => None,
        }
    }

    /// The parameters of one adapter by their names on disk. `None` when the layer does not have it.
    pub(crate) fn params(self, name: &str) -> Option<Vec<(&'static str, ParamMut<'a>)>> {
        match self {
            Self::Linear(layer) => layer.adapters_mut().get_mut(name).map(LayerAdapter::params_mut),
            Self::Embedding(layer) => layer.adapters_mut().get_mut(name).map(LayerAdapter::params_mut),
            Self::Norm(layer) => layer.adapters_mut().get_mut(name).map(LayerAdapter::params_mut),
        }
    }

    pub(crate) fn set_active(self, names: &[String], trained: &[String]) {
        match self {
            Self::Linear(layer) => layer.adapters_mut().set_active(names, trained),
            Self::Embedding(layer) => layer.adapters_mut().set_active(names, trained),
            Self::Norm(layer) => layer.adapters_mut().set_active(names, trained),
        }
    }

    pub(crate) fn set_by_row(self, names: &[String]) {
        match self {
            Self::Linear(layer) => layer.adapters_mut().set_by_row(names),
            Self::Embedding(layer) => layer.adapters_mut().set_by_row(names),
            Self::Norm(layer) => layer.adapters_mut().set_by_row(names),
        }
    }

    /// Multiplies the scaling of every low-rank adapter; returns how many there are.
    pub(crate) fn rescale(self, multiplier: f64) -> usize {
        match self {
            Self::Linear(layer) => {
                layer.methods_mut().filter_map(|(_, method)| method.rescale(multiplier).then_some(())).count()
            }
            Self::Embedding(layer) => {
                let adapters = layer.adapters_mut().iter_mut().filter_map(|(_, adapter)| adapter.lora.as_mut());
                adapters.map(|lora| lora.rescale(multiplier)).count()
            }
            Self::Norm(_) => 0,
        }
    }

    pub(crate) fn remove(self, name: &str) {
        match self {
            Self::Linear(layer) => drop(layer.adapters_mut().remove(name)),
            Self::Embedding(layer) => drop(layer.adapters_mut().remove(name)),
            Self::Norm(layer) => drop(layer.adapters_mut().remove(name)),
        }
    }

    pub(crate) fn merge(self, names: &[String]) -> Result<()> {
        match self {
            Self::Linear(layer) => layer.merge(names),
            Self::Embedding(layer) => layer.merge(names),
            Self::Norm(layer) => layer.merge(names),
        }
    }

    pub(crate) fn unmerge(self) {
        match self {
            Self::Linear(layer) => layer.unmerge(),
            Self::Embedding(layer) => layer.unmerge(),
            Self::Norm(layer) => layer.unmerge(),
        }
    }

    pub(crate) fn keep_merged(self) {
        match self {
            Self::Linear(layer) => layer.keep_merged(),
            Self::Embedding(layer) => layer.keep_merged(),
            Self::Norm(layer) => layer.keep_merged(),
        }
    }
}
