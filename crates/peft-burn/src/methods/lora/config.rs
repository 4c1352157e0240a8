//! LoRA and DoRA.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::numbers::{whole_as_integer, whole_values_as_integers};
use crate::config::patterns::unmatched_patterns;
use crate::config::{
    Bias, InitLoraWeights, ModuleNames, OneOrMany, OtherKeys, Patterns, TargetModules, TaskType, TokenIndices, checks,
    shared_keys,
};
use crate::methods::traits::{Change, MethodConfig};
use crate::modules::{ModuleInfo, ModuleKind};

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
    /// The task that the model is trained for.
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
    /// Whether head and embedding are trained as one where they are tied (`ensure_weight_tying`).
    pub fn ties_weights(&self) -> bool {
        self.other.get("ensure_weight_tying") == Some(&Value::Bool(true))
    }

    /// The rank of the module at `path`.
    pub fn rank_for(&self, path: &str) -> usize {
        self.rank_pattern.lookup(path).copied().unwrap_or(self.r)
    }

    /// The alpha of the module at `path`.
    pub fn alpha_for(&self, path: &str) -> f64 {
        self.alpha_pattern.lookup(path).copied().unwrap_or(self.lora_alpha)
    }

    /// The factor of B·A·x at `path`: `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub fn scaling_for(&self, path: &str) -> f64 {
        let rank = self.rank_for(path) as f64;
        self.alpha_for(path) / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

impl MethodConfig for LoraConfig {
    fn peft_type(&self) -> &'static str {
        "LORA"
    }

    fn display_name(&self) -> &'static str {
        match self {
            Self { use_dora: true, .. } => "DoRA",
            Self { use_rslora: true, .. } => "rsLoRA",
            _ => "LoRA",
        }
    }

    shared_keys!(exclude_modules, layers_to_transform, layers_pattern, bias);

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(checks::rank("r", self.r));
        problems.extend(checks::finite("lora_alpha", self.lora_alpha));
        problems.extend(checks::dropout("lora_dropout", self.lora_dropout));
        problems.extend(self.shared().problems());
        problems.extend(checks::patterns(&self.rank_pattern, &self.alpha_pattern));
        problems.extend(checks::bias(self.bias, Bias::VeraOnly, "lora_only"));
        problems.extend(self.init_problems());
        for (name, ids) in self.trainable_token_indices.iter().flat_map(TokenIndices::iter) {
            let repeated = ids.iter().enumerate().filter(|(i, id)| ids[..*i].contains(id)).map(|(_, id)| id);
            problems.extend(repeated.map(|id| format!("trainable_token_indices: token {id} of {name} is there twice")));
        }
        if self.lora_bias && self.use_dora {
            problems.push("lora_bias = true does not go with use_dora = true; leave one of them off".into());
        }
        let other = self.other.problems(&features()).into_iter();
        // Honoured where the adapter is attached.
        problems.extend(other.filter(|problem| !problem.starts_with("ensure_weight_tying")));
        problems
    }

    fn parameters(&self, module: &ModuleInfo) -> usize {
        let ModuleInfo { in_features, out_features, .. } = *module;
        // The magnitude and the bias of B are vectors as wide as the output.
        let bias = self.lora_bias && module.kind != ModuleKind::Embedding;
        let vectors = usize::from(self.use_dora) + usize::from(bias);
        self.rank_for(&module.path) * (in_features + out_features) + vectors * out_features
    }

    fn tensor_prefix(&self) -> &'static str {
        "lora_"
    }

    fn factors(&self) -> &'static [(&'static str, &'static str)] {
        &[("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")]
    }

    fn saved_rank(&self, path: &str) -> Option<usize> {
        Some(self.rank_for(path))
    }

    fn origin(&self) -> Option<(&InitLoraWeights, &OtherKeys)> {
        Some((&self.init_lora_weights, &self.other))
    }

    fn origin_mut(&mut self) -> Option<(&mut InitLoraWeights, &mut OtherKeys)> {
        Some((&mut self.init_lora_weights, &mut self.other))
    }

    fn dropouts(&self) -> Vec<(&'static str, f64)> {
        vec![("lora_dropout", self.lora_dropout)]
    }

    fn change(&self) -> Change {
        if self.use_dora { Change::Direction } else { Change::LowRank }
    }

    fn adapts_embeddings(&self) -> bool {
        !self.lora_bias
    }

    fn adapts(&self) -> &'static str {
        if self.lora_bias { "linear modules only when lora_bias is true" } else { "linear modules and embeddings only" }
    }

    fn unmatched(&self, _: &[ModuleInfo], adapted: &[ModuleInfo]) -> Vec<String> {
        unmatched_patterns(&self.rank_pattern, &self.alpha_pattern, adapted)
    }

    fn trainable_tokens(&self) -> Option<&TokenIndices> {
        self.trainable_token_indices.as_ref()
    }

    fn beyond_the_weight(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.lora_dropout > 0.0 {
            problems.push(format!("lora_dropout = {}: set it to 0", self.lora_dropout));
        }
        if self.lora_bias {
            problems.push("lora_bias: set it to false".to_owned());
        }
        if self.trainable_token_indices.is_some() {
            problems.push("trainable_token_indices: leave it out".to_owned());
        }
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
