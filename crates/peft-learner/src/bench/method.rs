//! The methods that can be measured, by their names.

use std::str::FromStr;

use peft_burn::{PeftConfig, TargetModules};
use serde::{Serialize, Serializer};

use super::error::BenchError;

/// A way to train that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BenchMethod {
    /// A preset of that name ([`PeftConfig::presets`]) on the modules that its method is usually measured on: for most q,
    /// k, v and o. AdaLoRA with its orthogonality term, its scores and a mask at every step.
    Usual(&'static str),
    /// The method on all linear modules.
    All(&'static str),
    /// Every weight is trained.
    Full,
    /// The forward pass and the loss, without gradients.
    BaseForward,
}

impl BenchMethod {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let presets = PeftConfig::presets(1).into_iter();
        let adapters = presets.flat_map(|preset| [Self::Usual(preset.name), Self::All(preset.name)]);
        adapters.chain([Self::Full, Self::BaseForward]).collect()
    }

    /// Its name: `lora`, `lora_all`, `full`, `base_forward`.
    pub fn name(self) -> String {
        match self {
            Self::Usual(preset) => preset.to_owned(),
            Self::All(preset) => format!("{preset}_all"),
            Self::Full => "full".to_owned(),
            Self::BaseForward => "base_forward".to_owned(),
        }
    }

    /// The names of all of them, for a message.
    pub fn names() -> String {
        Self::all().into_iter().map(Self::name).collect::<Vec<_>>().join(", ")
    }

    /// The adapter of a run of `steps` steps.
    pub fn adapter(self, steps: usize) -> Option<PeftConfig> {
        let (Self::Usual(name) | Self::All(name)) = self else { return None };
        let mut config = PeftConfig::presets(steps).into_iter().find(|preset| preset.name == name)?.config;
        config.make_steps_alike(steps);
        if let Self::Usual(_) = self {
            *config.shared_mut().target_modules = TargetModules::list(config.usual_targets().iter().copied());
        }
        Some(config)
    }
}

impl Serialize for BenchMethod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl FromStr for BenchMethod {
    type Err = BenchError;

    fn from_str(name: &str) -> Result<Self, BenchError> {
        let found = Self::all().into_iter().find(|method| method.name() == name);
        found.ok_or_else(|| BenchError::Method { name: name.to_owned(), known: Self::names() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_the_reference_measures_methods_of_the_same_names() {
        for method in BenchMethod::all() {
            assert_eq!(method.name().parse::<BenchMethod>().unwrap(), method);
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
        assert!("qlora".parse::<BenchMethod>().unwrap_err().to_string().contains("lora_all"));
        let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/peft_bench.py");
        let reference = std::fs::read_to_string(reference).unwrap();
        let (_, choices) = reference.split_once("choices=[").unwrap();
        let (choices, _) = choices.split_once(']').unwrap();
        let names: Vec<_> = choices.split(", ").map(|name| name.trim_matches('"')).collect();
        assert!(names.len() >= 9, "{names:?}");
        names.iter().for_each(|name| assert!(name.parse::<BenchMethod>().is_ok(), "{name}"));
    }
}
