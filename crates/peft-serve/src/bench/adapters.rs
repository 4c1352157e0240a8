//! Adapters that are made up for measuring.

use std::fs;
use std::path::Path;

use llama_burn::Llama;
use peft_burn::{
    AdaLoraConfig, AdapterFiles, Ia3Config, InitLoraWeights, LoraConfig, ModuleNames, PeftConfig, PeftModel,
    TargetModules, VeraConfig,
};

use crate::error::{Result, ServeError};

/// A method with made-up values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MadeUp {
    /// Rank 16 on q, k, v and o.
    Lora,
    /// As LoRA.
    Dora,
    /// As LoRA, with as many triplets.
    AdaLora,
    /// Rank 256 on q, k, v and o.
    Vera,
    /// On k, v and the feedforward block's last projection.
    Ia3,
}

impl MadeUp {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lora, Self::Dora, Self::AdaLora, Self::Vera, Self::Ia3];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Dora => "dora",
            Self::AdaLora => "adalora",
            Self::Vera => "vera",
            Self::Ia3 => "ia3",
        }
    }

    /// The method of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    fn config(self) -> PeftConfig {
        let target_modules = TargetModules::list(["q_proj", "k_proj", "v_proj", "o_proj"]);
        let init_lora_weights = InitLoraWeights::Random;
        match self {
            Self::Lora | Self::Dora => PeftConfig::Lora(LoraConfig {
                r: 16,
                use_dora: self == Self::Dora,
                target_modules,
                init_lora_weights,
                ..LoraConfig::default()
            }),
            Self::AdaLora => PeftConfig::AdaLora(AdaLoraConfig {
                init_r: 16,
                target_r: 16,
                total_step: Some(1000),
                target_modules,
                init_lora_weights,
                ..AdaLoraConfig::default()
            }),
            Self::Vera => PeftConfig::Vera(VeraConfig {
                r: 256,
                target_modules,
                init_weights: false,
                save_projection: false,
                ..VeraConfig::default()
            }),
            Self::Ia3 => PeftConfig::Ia3(Ia3Config {
                target_modules: TargetModules::list(["k_proj", "v_proj", "down_proj"]),
                feedforward_modules: Some(ModuleNames::List(vec!["down_proj".into()])),
                init_ia3_weights: false,
                ..Ia3Config::default()
            }),
        }
    }
}

/// Writes `count` adapters of `model` into `folder`, the methods in turn; their names. Those of one method have the same
/// values, and each is loaded into memory of its own.
///
/// # Errors
/// Files that cannot be written.
pub fn write_adapters(
    model: &Llama,
    methods: &[MadeUp],
    count: usize,
    folder: impl AsRef<Path>,
) -> Result<Vec<String>> {
    let folder = folder.as_ref();
    let failed = |error: String| ServeError::Failed(format!("making adapters up: {error}"));
    let first = |method: MadeUp| folder.join(format!(".{}", method.name()));
    for method in methods {
        let mut adapted = model.clone();
        adapted.add_adapter("made-up", &method.config(), 1).map_err(|error| failed(error.to_string()))?;
        adapted.save_adapter("made-up", first(*method)).map_err(|error| failed(error.to_string()))?;
    }
    let mut names = Vec::with_capacity(count);
    for (i, method) in (0..count).zip(methods.iter().cycle()) {
        let name = format!("{}-{i}", method.name());
        let to = folder.join(&name);
        let linked = fs::create_dir_all(&to).and_then(|()| {
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                fs::hard_link(first(*method).join(file), to.join(file))?;
            }
            Ok(())
        });
        linked.map_err(|error| failed(error.to_string()))?;
        names.push(name);
    }
    Ok(names)
}
