//! The dtypes that a model's weights are stored and held in.

use burn::tensor::FloatDType;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The dtype of a model's weights, in a file or in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE single precision, `float32`.
    #[default]
    F32,
    /// Brain floating point, `bfloat16`.
    Bf16,
    /// IEEE half precision, `float16`.
    F16,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Its short name: `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The name torch and transformers use, such as `"bfloat16"`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

impl From<Dtype> for FloatDType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
        }
    }
}

/// The dtype that a model's weights are to be held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadDtype {
    /// The dtype of the model's files, as `dtype="auto"` in Transformers.
    Auto,
    /// The given dtype; weights in another are converted.
    As(Dtype),
}

impl LoadDtype {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::As(Dtype::F32), Self::As(Dtype::Bf16), Self::As(Dtype::F16), Self::Auto];

    /// Its short name: that of the [`Dtype`], or `auto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::As(dtype) => dtype.name(),
        }
    }
}

impl Default for LoadDtype {
    fn default() -> Self {
        Self::As(Dtype::F32)
    }
}

impl From<LoadDtype> for Option<FloatDType> {
    fn from(dtype: LoadDtype) -> Self {
        match dtype {
            LoadDtype::Auto => None,
            LoadDtype::As(dtype) => Some(dtype.into()),
        }
    }
}

impl Serialize for LoadDtype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for LoadDtype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let names = || Self::ALL.map(Self::name).join(", ");
        let known = Self::ALL.into_iter().find(|dtype| dtype.name() == name);
        known.ok_or_else(|| D::Error::custom(format_args!("unknown dtype `{name}`, expected one of {}", names())))
    }
}
