//! Values that the configurations of several methods share.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `target_modules`: which modules get an adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetModules {
    /// `null`: PEFT's default for the model type; for Llama `q_proj` and `v_proj` (IA3: `k_proj`, `v_proj`,
    /// `down_proj`).
    #[default]
    ModelDefault,
    /// Every linear module except the output head (`"all-linear"`).
    AllLinear,
    /// A Python regular expression that must match the whole module path.
    Regex(String),
    /// Module paths, or their last segments: `q_proj` selects every path that is `q_proj` or ends in `.q_proj`.
    List(Vec<String>),
}

impl TargetModules {
    /// A [`List`](Self::List) of these names.
    pub fn list<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::List(names.into_iter().map(Into::into).collect())
    }

    /// A [`Regex`](Self::Regex) of this pattern.
    pub fn regex(pattern: impl Into<String>) -> Self {
        Self::Regex(pattern.into())
    }
}

impl Serialize for TargetModules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::ModelDefault => serializer.serialize_none(),
            Self::AllLinear => serializer.serialize_str("all-linear"),
            Self::Regex(pattern) => serializer.serialize_str(pattern),
            Self::List(names) => sorted(names).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TargetModules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::<ModuleNames>::deserialize(deserializer)? {
            None => Self::ModelDefault,
            Some(ModuleNames::Regex(text)) if text.eq_ignore_ascii_case("all-linear") => Self::AllLinear,
            Some(ModuleNames::Regex(pattern)) => Self::Regex(pattern),
            Some(ModuleNames::List(names)) => Self::List(names),
        })
    }
}

/// `exclude_modules` and `feedforward_modules`: names, or one regular expression over the whole path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a list of names, or a string with a regular expression")]
#[non_exhaustive]
pub enum ModuleNames {
    /// A Python regular expression that must match the whole module path.
    Regex(String),
    /// Module paths, or their endings.
    List(Vec<String>),
}

impl ModuleNames {
    /// A [`List`](Self::List) of these names.
    pub fn list<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::List(names.into_iter().map(Into::into).collect())
    }
}

impl Serialize for ModuleNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Regex(pattern) => serializer.serialize_str(pattern),
            Self::List(names) => sorted(names).serialize(serializer),
        }
    }
}

/// PEFT keeps these lists as sets and writes them in hash order; ours are written sorted, so that equal
/// configurations are equal files.
fn sorted(names: &[String]) -> Vec<&String> {
    let mut names: Vec<_> = names.iter().collect();
    names.sort();
    names
}

/// A value or a list of them, as `layers_to_transform` and `layers_pattern` are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected one value, or a list of them")]
pub enum OneOrMany<T> {
    /// One value.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values as a slice.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// `bias`: which bias vectors of the base model are trained and saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// Every bias of the model.
    All,
    /// The biases of the adapted modules (LoRA, DoRA, AdaLoRA).
    LoraOnly,
    /// The biases of the adapted modules (VeRA).
    VeraOnly,
}

/// `task_type`: what the model is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum TaskType {
    /// Sequence classification; the head (`score`, `classifier`) is trained and saved too.
    SeqCls,
    /// Sequence to sequence.
    #[serde(rename = "SEQ_2_SEQ_LM")]
    Seq2SeqLm,
    /// Causal language modelling.
    CausalLm,
    /// Token classification; the head (`score`, `classifier`) is trained and saved too.
    TokenCls,
    /// Extractive question answering; the head (`qa_outputs`) is trained and saved too.
    QuestionAns,
    /// Hidden states only.
    FeatureExtraction,
}

impl TaskType {
    /// Heads that PEFT adds to `modules_to_save` for this task.
    pub fn heads(self) -> &'static [&'static str] {
        match self {
            Self::SeqCls | Self::TokenCls => &["classifier", "score"],
            Self::QuestionAns => &["qa_outputs"],
            _ => &[],
        }
    }
}

/// `init_lora_weights`: what a new LoRA starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitLoraWeights {
    /// `true`: A uniform in ±1/√in, B zero.
    #[default]
    Default,
    /// `false`: A and B both as a linear layer is initialised, so that the adapter is no identity at first; for tests.
    Random,
    /// `"gaussian"`: A normal with standard deviation 1/r, B zero.
    Gaussian,
    /// `"pissa"`: principal singular vectors of the weight, which keeps the residual.
    Pissa,
    /// `"pissa_niter_N"`: the same from a randomised decomposition with N subspace iterations.
    PissaNiter(usize),
    /// `"olora"`: from the QR decomposition of the weight, which keeps the residual.
    Olora,
    /// `"orthogonal"`: rows of A and columns of B orthogonal, such that B·A is zero. The rank must be even.
    Orthogonal,
    /// Any other initialisation of PEFT's; kept so that a file survives a round trip, refused by `validate`.
    Other(String),
}

impl InitLoraWeights {
    /// Whether the initialisation also changes the base weight.
    pub fn changes_base_weight(&self) -> bool {
        matches!(self, Self::Pissa | Self::PissaNiter(_) | Self::Olora)
    }
}

impl Serialize for InitLoraWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_bool(true),
            Self::Random => serializer.serialize_bool(false),
            Self::Gaussian => serializer.serialize_str("gaussian"),
            Self::Pissa => serializer.serialize_str("pissa"),
            Self::PissaNiter(n) => serializer.collect_str(&format_args!("pissa_niter_{n}")),
            Self::Olora => serializer.serialize_str("olora"),
            Self::Orthogonal => serializer.serialize_str("orthogonal"),
            Self::Other(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for InitLoraWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected true, false or the name of an initialisation")]
        enum Raw {
            Flag(bool),
            Name(String),
            // Python's `None` is as good as `False`.
            Null(()),
        }
        Ok(match Raw::deserialize(deserializer)? {
            Raw::Flag(true) => Self::Default,
            Raw::Flag(false) | Raw::Null(()) => Self::Random,
            Raw::Name(name) => match name.as_str() {
                "gaussian" => Self::Gaussian,
                "pissa" => Self::Pissa,
                "olora" => Self::Olora,
                "orthogonal" => Self::Orthogonal,
                other => match other.strip_prefix("pissa_niter_").and_then(|n| n.parse().ok()) {
                    Some(n) => Self::PissaNiter(n),
                    None => Self::Other(name),
                },
            },
        })
    }
}
