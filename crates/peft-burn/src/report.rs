//! How many parameters an adapter trains, counted from shapes alone.

use std::fmt::{self, Display, Formatter};

use crate::config::{Bias, LoraConfig, PeftConfig};
use crate::targets::{ModuleInfo, ModuleKind, Resolution};

/// Trainable and all parameters; displayed in the words of PEFT's `print_trainable_parameters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainableReport {
    /// Parameters that training changes.
    pub trainable: usize,
    /// Those and the frozen ones.
    pub all: usize,
}

impl TrainableReport {
    /// Trainable parameters in percent of all.
    pub fn percentage(&self) -> f64 {
        if self.all == 0 { 0.0 } else { (100 * self.trainable) as f64 / self.all as f64 }
    }
}

impl Display for TrainableReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { trainable, all } = *self;
        let percentage = self.percentage();
        write!(
            f,
            "trainable params: {} || all params: {} || trainable%: {percentage:.4}",
            commas(trainable),
            commas(all)
        )
    }
}

/// The digits in groups of three.
fn commas(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Counts the parameters of a model with one adapter, as PEFT counts them.
///
/// `modules` are all modules of the base model, and `base_parameters` its number of parameters, with shared tensors
/// counted once. VeRA's shared pair is no parameter. Modules that are saved whole count twice in `all`: the frozen
/// original stays.
pub fn count_parameters(resolution: &Resolution, modules: &[ModuleInfo], base_parameters: usize) -> TrainableReport {
    let Resolution { config, adapted, modules_to_save, .. } = resolution;
    let added: usize = adapted.iter().map(|module| adapter_parameters(config, module)).sum();
    let saved: usize = modules_to_save.iter().map(ModuleInfo::parameters).sum();
    let biases: usize = match config.bias() {
        Bias::None => 0,
        Bias::All => modules.iter().map(ModuleInfo::bias_parameters).sum(),
        Bias::LoraOnly | Bias::VeraOnly => adapted.iter().map(ModuleInfo::bias_parameters).sum(),
    };
    // PEFT keeps AdaLoRA's rank of a module as a frozen parameter of one element.
    let ranks = if matches!(config, PeftConfig::AdaLora(_)) { adapted.len() } else { 0 };
    TrainableReport { trainable: added + saved + biases, all: base_parameters + added + saved + ranks }
}

/// Trainable parameters that the adapter adds to one module.
fn adapter_parameters(config: &PeftConfig, module: &ModuleInfo) -> usize {
    let ModuleInfo { in_features, out_features, .. } = *module;
    match config {
        PeftConfig::Lora(config) => {
            let LoraConfig { use_dora, lora_bias, .. } = *config;
            // The magnitude and the bias of B are vectors as wide as the output.
            let vectors = usize::from(use_dora) + usize::from(lora_bias && module.kind != ModuleKind::Embedding);
            config.rank_for(&module.path) * (in_features + out_features) + vectors * out_features
        }
        PeftConfig::AdaLora(config) => config.init_r * (in_features + out_features + 1),
        PeftConfig::Vera(config) => out_features + config.r,
        PeftConfig::Ia3(config) if config.is_feedforward(&module.path) => in_features,
        PeftConfig::Ia3(_) => out_features,
    }
}
