//! LoRA and DoRA.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::config::keys::{MethodConfig, OtherKeys};
use crate::config::{Bias, InitLoraWeights, ModuleNames, OneOrMany, Patterns, TargetModules, TaskType, checks};

/// `peft_type` `LORA`: `y = W·x + scaling · B·A·x`, with PEFT's keys and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of the scaling `lora_alpha / r`.
    #[serde(serialize_with = "whole_as_integer")]
    pub lora_alpha: f64,
    /// Probability of dropping an element of the adapter's input in training.
    pub lora_dropout: f64,
    /// Which modules get an adapter.
    pub target_modules: TargetModules,
    /// Modules to leave out of `target_modules`.
    pub exclude_modules: Option<ModuleNames>,
    /// Keep only the modules of these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// Name of the list of layers that `layers_to_transform` counts in; any, if absent.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Ranks that differ from `r`.
    pub rank_pattern: Patterns<usize>,
    /// Values that differ from `lora_alpha`.
    #[serde(serialize_with = "whole_values_as_integers")]
    pub alpha_pattern: Patterns<f64>,
    /// Scale by `lora_alpha / sqrt(r)` instead.
    pub use_rslora: bool,
    /// Weight-decomposed LoRA: learn the row norms of the adapted weight too.
    pub use_dora: bool,
    /// Give B a bias.
    pub lora_bias: bool,
    /// Which biases of the base model are trained.
    pub bias: Bias,
    /// Initial values.
    pub init_lora_weights: InitLoraWeights,
    /// Modules that are trained and saved whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Rows of the embedding that are trained themselves.
    pub trainable_token_indices: Option<TokenIndices>,
    /// What the model is trained for.
    pub task_type: Option<TaskType>,
    /// Where the base model came from.
    pub base_model_name_or_path: Option<String>,
    /// PEFT's other keys.
    #[serde(flatten)]
    pub other: OtherKeys,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let notes = [("megatron_core", json!("megatron.core")), ("qalora_group_size", json!(16))];
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::ModelDefault,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            use_rslora: false,
            use_dora: false,
            lora_bias: false,
            bias: Bias::None,
            init_lora_weights: InitLoraWeights::Default,
            modules_to_save: None,
            task_type: None,
            base_model_name_or_path: None,
            trainable_token_indices: None,
            other: OtherKeys::new(&[&features()[..], &notes[..]].concat()),
        }
    }
}

/// Features of PEFT's LoRA that this crate does not implement, with the value that leaves them off.
pub(crate) fn features() -> Vec<(&'static str, Value)> {
    let null = [
        "alora_invocation_tokens",
        "arrow_config",
        "corda_config",
        "eva_config",
        "kasa_config",
        "layer_replication",
        "lora_ga_config",
        "megatron_config",
        "monteclora_config",
        "target_parameters",
        "use_bdlora",
        "velora_config",
    ];
    let no = ["ensure_weight_tying", "fan_in_fan_out", "use_qalora"];
    let null = null.map(|key| (key, Value::Null)).into_iter();
    null.chain(no.map(|key| (key, json!(false)))).chain([("loftq_config", json!({}))]).collect()
}

impl LoraConfig {
    /// The rank of the module at `path`.
    pub fn rank_for(&self, path: &str) -> usize {
        self.rank_pattern.lookup(path).copied().unwrap_or(self.r)
    }

    /// The alpha of the module at `path`.
    pub fn alpha_for(&self, path: &str) -> f64 {
        self.alpha_pattern.lookup(path).copied().unwrap_or(self.lora_alpha)
    }

    /// What B·A·x is multiplied with at `path`: `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub fn scaling_for(&self, path: &str) -> f64 {
        let rank = self.rank_for(path) as f64;
        self.alpha_for(path) / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// `trainable_token_indices`: tokens of the input embedding, or of each of several embeddings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of token ids, or a map from embedding names to lists")]
pub enum TokenIndices {
    /// Of `embed_tokens`.
    List(Vec<usize>),
    /// By the embedding's name or path.
    ByModule(BTreeMap<String, Vec<usize>>),
}

impl TokenIndices {
    /// Name of each embedding, and its tokens.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (&str, &[usize])> + '_> {
        match self {
            Self::List(ids) => Box::new(std::iter::once(("embed_tokens", ids.as_slice()))),
            Self::ByModule(map) => Box::new(map.iter().map(|(name, ids)| (name.as_str(), ids.as_slice()))),
        }
    }
}

impl LoraConfig {
    /// The trained tokens of the embedding at `path`, in the order of the adapter's rows.
    pub fn trainable_tokens_for(&self, path: &str) -> &[usize] {
        let is = |name: &str| path == name || path.ends_with(&format!(".{name}"));
        let mut tokens = self.trainable_token_indices.iter().flat_map(TokenIndices::iter);
        tokens.find(|(name, _)| is(name)).map(|(_, ids)| ids).unwrap_or_default()
    }
}

impl MethodConfig for LoraConfig {
    const PEFT_TYPE: &'static str = "LORA";

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(checks::rank("r", self.r));
        problems.extend(checks::finite("lora_alpha", self.lora_alpha));
        problems.extend(checks::dropout("lora_dropout", self.lora_dropout));
        problems.extend(checks::targets(&self.target_modules));
        problems.extend(checks::names("exclude_modules", self.exclude_modules.as_ref()));
        problems.extend(checks::modules_to_save(self.modules_to_save.as_deref()));
        problems.extend(checks::layers(
            &self.target_modules,
            self.layers_to_transform.as_ref(),
            self.layers_pattern.as_ref(),
        ));
        for (pattern, &r) in self.rank_pattern.iter() {
            problems.extend(checks::regex("rank_pattern", pattern));
            problems.extend(checks::rank(&format!("rank_pattern.`{pattern}`"), r));
        }
        for (pattern, &alpha) in self.alpha_pattern.iter() {
            problems.extend(checks::regex("alpha_pattern", pattern));
            problems.extend(checks::finite(&format!("alpha_pattern.`{pattern}`"), alpha));
        }
        problems.extend(checks::bias(self.bias, Bias::VeraOnly, "lora_only"));
        problems.extend(self.init_problems());
        for (name, ids) in self.trainable_token_indices.iter().flat_map(TokenIndices::iter) {
            let repeated = ids.iter().enumerate().filter(|(i, id)| ids[..*i].contains(id)).map(|(_, id)| id);
            problems.extend(repeated.map(|id| format!("trainable_token_indices: token {id} of {name} is there twice")));
        }
        if self.lora_bias && self.use_dora {
            problems.push("lora_bias = true does not go with use_dora = true; leave one of them off".into());
        }
        problems.extend(self.other.problems(&features()));
        problems
    }
}

impl LoraConfig {
    fn init_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let init = &self.init_lora_weights;
        if let InitLoraWeights::Other(name) = init {
            problems.push(format!(
                "init_lora_weights = \"{name}\" is not supported; use true, false, \"gaussian\", \"pissa\", \
                 \"pissa_niter_N\" (N a number), \"olora\" or \"orthogonal\""
            ));
        }
        if *init == InitLoraWeights::Orthogonal {
            let ranks = self.rank_pattern.iter().map(|(pattern, &r)| (format!("rank_pattern.`{pattern}`"), r));
            for (key, r) in std::iter::once(("r".to_string(), self.r)).chain(ranks) {
                if r % 2 == 1 {
                    problems.push(format!("{key} = {r}: init_lora_weights = \"orthogonal\" needs an even rank"));
                }
            }
        }
        if self.lora_bias && !matches!(init, InitLoraWeights::Default | InitLoraWeights::Random) {
            problems.push("lora_bias = true needs init_lora_weights = true or false".into());
        }
        problems
    }
}

/// Writes 8 for 8.0, as PEFT does for the integers that users give; 0.5 stays 0.5.
pub(crate) fn whole_as_integer<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    number(*value).serialize(serializer)
}

fn whole_values_as_integers<S: Serializer>(patterns: &Patterns<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(patterns.iter().map(|(pattern, &value)| (pattern, number(value))))
}

fn number(value: f64) -> Value {
    let whole = value.fract() == 0.0 && value.abs() < 2f64.powi(53);
    if whole { Value::from(value as i64) } else { Value::from(value) }
}
