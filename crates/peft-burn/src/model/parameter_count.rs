//! How many parameters an adapter trains, counted from shapes alone.

use std::fmt::{self, Display, Formatter};

use super::adaptable::AdaptableModel;
use crate::config::Bias;
use crate::modules::{ModuleInfo, ModuleKind};
use crate::targets::Resolution;

/// Trainable and all parameters; displayed in the words of PEFT's `print_trainable_parameters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainableReport {
    /// Parameters that training changes.
    pub trainable: usize,
    /// All parameters, frozen ones included.
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
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
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
    let added: usize = adapted.iter().map(|module| config.parameters(module)).sum();
    let saved: usize = modules_to_save.iter().map(ModuleInfo::parameters).sum();
    let width = |module: &ModuleInfo| match module.kind {
        ModuleKind::Embedding => module.out_features,
        ModuleKind::OutputHead => module.in_features,
        ModuleKind::Linear | ModuleKind::Other => 0,
    };
    let tokens: usize = modules.iter().map(|m| config.trainable_tokens_for(&m.path).len() * width(m)).sum();
    let biases: usize = match config.bias() {
        Bias::None => 0,
        Bias::All => modules.iter().map(ModuleInfo::bias_parameters).sum(),
        Bias::LoraOnly | Bias::VeraOnly => adapted.iter().map(ModuleInfo::bias_parameters).sum(),
    };
    let frozen = adapted.len() * config.frozen_parameters();
    TrainableReport {
        trainable: added + saved + tokens + biases,
        all: base_parameters + added + saved + tokens + frozen,
    }
}

/// Counts the parameters of a model with all its adapters, of which those that are active and not frozen are trained.
pub(super) fn count_attached<M: AdaptableModel>(model: &M) -> TrainableReport {
    let state = model.peft_state();
    let (mut trainable, mut all) = (0, model.num_base_parameters());
    for (name, adapter) in &state.adapters {
        let trained = state.active.contains(name) && !adapter.frozen;
        all += adapter.adapted.len() * adapter.config.frozen_parameters();
        for (path, layer) in model.layers() {
            let never = layer.never_trained(name);
            for (suffix, param) in layer.params(name).into_iter().flatten() {
                let n = param.num_elements();
                // A trained bias is the base's own in PEFT, and counted once.
                let of_base = matches!(suffix, "bias" | "base_layer.bias") && !adapter.saved.contains(&path);
                all += if of_base { 0 } else { n };
                trainable += if trained && !never.contains(&suffix) { n } else { 0 };
            }
        }
    }
    TrainableReport { trainable, all }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{ModuleNames, TargetModules};
    use crate::methods::{AdaLoraConfig, Ia3Config, LoraConfig, PeftConfig, VeraConfig};
    use crate::targets::resolve;

    /// Llama-3-8B: its modules, and its number of parameters.
    fn llama_3_8b() -> (Vec<ModuleInfo>, usize) {
        let (hidden, key_value, intermediate, vocabulary) = (4096, 1024, 14336, 128_256);
        let mut modules = vec![ModuleInfo::embedding("model.embed_tokens", vocabulary, hidden)];
        for layer in 0..32 {
            let linear =
                |name, inputs, outputs| ModuleInfo::linear(format!("model.layers.{layer}.{name}"), inputs, outputs);
            modules.extend([
                linear("self_attn.q_proj", hidden, hidden),
                linear("self_attn.k_proj", hidden, key_value),
                linear("self_attn.v_proj", hidden, key_value),
                linear("self_attn.o_proj", hidden, hidden),
                linear("mlp.gate_proj", hidden, intermediate),
                linear("mlp.up_proj", hidden, intermediate),
                linear("mlp.down_proj", intermediate, hidden),
                ModuleInfo::other(format!("model.layers.{layer}.input_layernorm"), hidden),
                ModuleInfo::other(format!("model.layers.{layer}.post_attention_layernorm"), hidden),
            ]);
        }
        modules.push(ModuleInfo::other("model.norm", hidden));
        modules.push(ModuleInfo::output_head("lm_head", hidden, vocabulary));
        let parameters = modules.iter().map(ModuleInfo::parameters).sum();
        (modules, parameters)
    }

    #[test]
    fn every_method_on_llama_3_8b_counts_as_peft_counts() {
        let (modules, parameters) = llama_3_8b();
        assert_eq!(parameters, 8_030_261_248);
        let report = |config: PeftConfig| {
            count_parameters(&resolve(&config, &modules, "llama").unwrap(), &modules, parameters).to_string()
        };
        let attention = || TargetModules::list(["q_proj", "k_proj", "v_proj", "o_proj"]);

        let lora = LoraConfig { r: 16, lora_alpha: 32.0, target_modules: attention(), ..Default::default() };
        let dora = LoraConfig { use_dora: true, ..lora.clone() };
        let vera = VeraConfig { target_modules: attention(), projection_prng_key: 42, ..Default::default() };
        let adalora = AdaLoraConfig { init_r: 24, total_step: Some(2000), ..Default::default() };
        let ia3 = Ia3Config {
            target_modules: TargetModules::list(["k_proj", "v_proj", "down_proj"]),
            feedforward_modules: Some(ModuleNames::list(["down_proj"])),
            ..Default::default()
        };
        assert_eq!(
            report(lora.into()),
            "trainable params: 13,631,488 || all params: 8,043,892,736 || trainable%: 0.1695"
        );
        assert_eq!(
            report(dora.into()),
            "trainable params: 13,959,168 || all params: 8,044,220,416 || trainable%: 0.1735"
        );
        assert_eq!(report(vera.into()), "trainable params: 360,448 || all params: 8,030,621,696 || trainable%: 0.0045");
        assert_eq!(
            report(adalora.into()),
            "trainable params: 10,225,152 || all params: 8,040,486,464 || trainable%: 0.1272"
        );
        assert_eq!(report(ia3.into()), "trainable params: 524,288 || all params: 8,030,785,536 || trainable%: 0.0065");
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        let grouped = [0, 999, 1000, 123_456, 1_000_000].map(commas);
        assert_eq!(grouped, ["0", "999", "1,000", "123,456", "1,000,000"]);
    }
}
