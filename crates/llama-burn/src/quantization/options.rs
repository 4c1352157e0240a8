//! How a model is loaded.

use burn::tensor::FloatDType;
use fused_burn::Format;
use serde::{Deserialize, Serialize};

use super::config::BaseQuantization;

/// The format that weights are packed in, as users name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuantizationKind {
    /// All weights are dense; those that are stored packed are decoded.
    None,
    /// QLoRA's 4-bit normal float.
    Nf4,
    /// A 4-bit float.
    Fp4,
    /// 8-bit integers.
    Int8,
}

impl QuantizationKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Nf4, Self::Fp4, Self::Int8];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Int8 => "int8",
        }
    }

    /// Whether its scales can be quantised too.
    pub fn is_four_bit(self) -> bool {
        matches!(self, Self::Nf4 | Self::Fp4)
    }
}

impl Quantize {
    /// A user's request: a format, or nothing; whether its scales are quantised too; modules that stay dense.
    pub fn asked(kind: Option<QuantizationKind>, double_quantization: bool, skip_modules: Vec<String>) -> Self {
        let format = match kind {
            None => return Self::AsStored,
            Some(QuantizationKind::None) => return Self::Dense,
            Some(QuantizationKind::Nf4) => Format::Nf4,
            Some(QuantizationKind::Fp4) => Format::Fp4,
            Some(QuantizationKind::Int8) => Format::Int8,
        };
        Self::To(BaseQuantization { double_quantization, skip_modules, ..BaseQuantization::new(format) })
    }
}

/// The form that the weights of projections get when a model is loaded.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Quantize {
    /// Packed weights stay packed, and dense ones dense, unless `config.json` has a
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
