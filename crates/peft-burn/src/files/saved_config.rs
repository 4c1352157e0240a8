//! The meaning of a saved adapter's configuration for loading it.
//!
//! How the adapter once began does not matter: its tensors are in the file. What would make the same tensors compute
//! something else is refused by name.

use serde_json::Value;

use crate::config::{InitLoraWeights, OtherKeys};
use crate::error::{PeftError, Result};
use crate::methods::PeftConfig;

/// Features of PEFT that change what the tensors mean, with what they do. An adapter with one of them cannot be loaded.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("alora_invocation_tokens", "the adapter works only after its invocation tokens (aLoRA)"),
    ("arrow_config", "a router mixes several adapters (Arrow)"),
    ("kasa_config", "singular values of the weight are trained too (KaSA)"),
    ("layer_replication", "the adapter is for a base with repeated layers"),
    ("monteclora_config", "A is drawn from a trained distribution (MonteCLoRA)"),
    ("target_parameters", "single parameters are adapted, not modules"),
    ("use_bdlora", "A or B is block-diagonal (BD-LoRA)"),
    ("use_qalora", "the input is pooled in groups (QA-LoRA)"),
    ("velora_config", "inputs are compressed in training (VeLoRA)"),
];

/// Features that say how an adapter was made or laid out, and change nothing about what its tensors compute.
const SPENT: &[&str] = &[
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
];

/// A configuration that was saved, as loading takes it.
#[derive(Debug)]
pub(crate) struct SavedConfig {
    /// With a neutral initialisation, and without features that are spent.
    pub(crate) to_attach: PeftConfig,
    /// Whether head and embedding were trained as one (`ensure_weight_tying`).
    pub(crate) ties_weights: bool,
    /// Notes for the user.
    pub(crate) warnings: Vec<String>,
}

/// The configuration that loading makes of `config`, read from the file `origin`.
///
/// # Errors
/// [`PeftError::Config`] with everything that cannot be loaded, and what to do instead.
pub(crate) fn for_loading(config: &PeftConfig, origin: &str) -> Result<SavedConfig> {
    let (saved, mut problems) = read(config);
    if let Err(PeftError::Config { problems: others, .. }) = saved.to_attach.validate() {
        // Parameters in the place of modules, which is said already.
        let alone = problems.iter().any(|problem| problem.starts_with("target_parameters"));
        problems.extend(others.into_iter().filter(|problem| !alone || !problem.starts_with("target_modules = []")));
    }
    if problems.is_empty() { Ok(saved) } else { Err(PeftError::Config { origin: origin.to_owned(), problems }) }
}

/// As [`for_loading`], with the problems beside what is left of the configuration.
fn read(config: &PeftConfig) -> (SavedConfig, Vec<String>) {
    let mut saved = SavedConfig { to_attach: config.clone(), ties_weights: false, warnings: Vec::new() };
    let mut problems = Vec::new();
    // Only LoRA and its kin have keys that say how an adapter was once made.
    let Some((init, other)) = saved.to_attach.origin_mut() else { return (saved, problems) };
    for (key, what) in UNSUPPORTED {
        if let Some(value) = other.switch_off(key) {
            problems.push(unsupported(key, &value, what));
        }
    }
    for key in SPENT {
        match (other.switch_off(key), *key) {
            (Some(_), "ensure_weight_tying") => saved.ties_weights = true,
            (Some(_), "fan_in_fan_out" | "megatron_config") => {
                saved.warnings.push(format!("{key} is ignored: this model's layers are plain linear layers"));
            }
            _ => {}
        }
    }
    if let InitLoraWeights::PissaNiter(n) = init {
        problems.push(pissa_niter(*n));
    }
    saved.warnings.extend(init_warning(init));
    if !init.changes_base_weight() {
        *init = InitLoraWeights::Default;
    }
    (saved, problems)
}

fn unsupported(key: &str, value: &Value, what: &str) -> String {
    let way_out = match key {
        "alora_invocation_tokens" | "arrow_config" => "run it with PEFT, or train a plain LoRA in its place",
        _ => {
            "let PEFT fold it into the base (`merge_and_unload()`, then `save_pretrained(DIR)`) and use that model, or train \
             a plain LoRA in its place"
        }
    };
    let value = value.to_string();
    let value = if value.len() > 60 { format!("{}…", value.chars().take(60).collect::<String>()) } else { value };
    format!("{key} = {value} is not supported: {what}; {way_out}")
}

fn pissa_niter(n: usize) -> String {
    format!(
        "init_lora_weights = \"pissa_niter_{n}\": the adapter goes with the rest of the base that a random decomposition left, \
         which is not in the file and cannot be made again; load it on the residual base that was saved with it, with \
         init_lora_weights set to true, or save it in PEFT with path_initial_model_for_weight_conversion"
    )
}

/// A warning about how the adapter began, where that reached beyond its tensors or is not known.
fn init_warning(init: &InitLoraWeights) -> Option<String> {
    let InitLoraWeights::Other(name) = init else { return None };
    match name.as_str() {
        "eva" | "mica" => None,
        "corda" | "loftq" | "lora_ga" => Some(format!(
            "init_lora_weights = \"{name}\" changed the base's weights when the adapter was made: load it on the base that was \
             saved with it, where that is another than the original"
        )),
        _ => Some(format!(
            "init_lora_weights = \"{name}\" is not known here: the adapter's tensors are used as they are, which is right unless \
             it changed the base's weights"
        )),
    }
}

impl OtherKeys {
    /// Switches the feature `key` off; its value if it was on.
    fn switch_off(&mut self, key: &str) -> Option<Value> {
        let on = self.get(key).filter(|value| !crate::config::keys::is_off(value))?.clone();
        self.set(key, Value::Null);
        Some(on)
    }
}
