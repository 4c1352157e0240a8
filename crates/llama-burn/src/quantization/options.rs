//! How a model is loaded.

use burn::tensor::FloatDType;

use super::config::BaseQuantization;

/// What becomes of the weights of projections when a model is loaded.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Quantize {
    /// What is stored packed stays packed, and what is stored dense is dense, unless `config.json` has a
    /// `quantization_config`, which is then followed.
    #[default]
    AsStored,
    /// All of them become dense.
    Dense,
    /// Dense ones are packed, a tensor at a time, whatever `config.json` says.
    To(BaseQuantization),
}

/// How a model is loaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// The dtype of the weights in memory, to which packed ones are decoded; `None` keeps the files'.
    pub dtype: Option<FloatDType>,
    /// Whether weights are packed.
    pub quantize: Quantize,
}

impl From<Option<FloatDType>> for LoadOptions {
    fn from(dtype: Option<FloatDType>) -> Self {
        Self { dtype, quantize: Quantize::default() }
    }
}

impl LoadOptions {
    /// Packs the weights of projections.
    #[must_use]
    pub fn with_quantize(self, quantize: Quantize) -> Self {
        Self { quantize, ..self }
    }
}
