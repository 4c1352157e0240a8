//! Configurations in one expression: `LoraConfig::new(16).with_alpha(32.0)`. Each method has its own in `builder.rs`.

use super::{PeftConfig, Preset};
use crate::config::TargetModules;

/// Setters of the keys that every method has.
macro_rules! common_setters {
    ($config:ident) => {
        $crate::setters!($config {
            /// Sets the modules that get an adapter: `["q_proj", "v_proj"]` by their endings, `"all-linear"`, or a regular
            /// expression as a string.
            with_target_modules(modules: impl Into<$crate::TargetModules>) { target_modules: modules.into() }
            /// Sets the modules that are trained and saved whole.
            with_modules_to_save(names: impl IntoIterator<Item = impl Into<String>>) {
                modules_to_save: Some(names.into_iter().map(Into::into).collect())
            }
            /// Sets what the model is trained for.
            with_task_type(task: $crate::TaskType) { task_type: Some(task) }
        });
    };
}

/// Setters of the keys that narrow `target_modules` by layers.
macro_rules! layer_setters {
    ($config:ident) => {
        $crate::setters!($config {
            /// Adapts the modules of these layers alone: a number, `[0, 1]` or `0..8`.
            with_layers_to_transform(layers: impl Into<$crate::OneOrMany<usize>>) {
                layers_to_transform: Some(layers.into())
            }
            /// Sets the name of the list that `layers_to_transform` counts in.
            with_layers_pattern(pattern: impl Into<$crate::OneOrMany<String>>) { layers_pattern: Some(pattern.into()) }
        });
    };
}

/// The setter of `exclude_modules`.
macro_rules! exclude_setter {
    ($config:ident) => {
        $crate::setters!($config {
            /// Leaves these modules out of the targets.
            with_exclude_modules(names: impl Into<$crate::ModuleNames>) { exclude_modules: Some(names.into()) }
        });
    };
}

pub(super) use {common_setters, exclude_setter, layer_setters};

impl From<&PeftConfig> for PeftConfig {
    fn from(config: &PeftConfig) -> Self {
        config.clone()
    }
}

impl PeftConfig {
    /// A configuration to begin with, by the method's name (`lora`, `dora`, `adalora`, `vera`, `ia3`, `loha`), for a run of
    /// `steps` steps. `None` where there is no such method. The names are those of [`Self::presets`].
    pub fn preset(name: &str, steps: usize) -> Option<Preset<Self>> {
        let preset = Self::presets(steps).into_iter().find(|preset| preset.name == name)?;
        Some(preset.map(|config| config.with_total_step(steps)))
    }

    /// The same method on other modules: `["q_proj", "v_proj"]`, `"all-linear"`, or a regular expression as a string.
    pub fn with_target_modules(mut self, modules: impl Into<TargetModules>) -> Self {
        *self.shared_mut().target_modules = modules.into();
        self.targets_changed();
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{AdaLoraConfig, Ia3Config, LoHaConfig, LoraConfig, ModuleNames, OneOrMany, VeraConfig};

    #[test]
    fn what_a_builder_sets_is_what_the_file_says() {
        let lora = LoraConfig::new(16)
            .with_alpha(32.0)
            .with_dropout(0.1)
            .with_target_modules(["q_proj", "v_proj"])
            .with_exclude_modules(["lm_head"])
            .with_layers_to_transform(0..2)
            .with_layers_pattern("layers")
            .with_rank_pattern([("k_proj", 4)])
            .with_modules_to_save(["lm_head"])
            .with_rslora(true);
        let json = PeftConfig::from(lora).to_json();
        let expected = [
            ("r", "16"),
            ("lora_alpha", "32"),
            ("lora_dropout", "0.1"),
            ("target_modules", r#"["q_proj","v_proj"]"#),
            ("exclude_modules", r#"["lm_head"]"#),
            ("layers_to_transform", "[0,1]"),
            ("layers_pattern", r#""layers""#),
            ("rank_pattern", r#"{"k_proj":4}"#),
            ("modules_to_save", r#"["lm_head"]"#),
            ("use_rslora", "true"),
            ("use_dora", "false"),
        ];
        for (key, value) in expected {
            assert_eq!(json[key].to_string(), value, "{key}");
        }
    }

    #[test]
    fn ranks_that_no_model_holds_are_refused_for_every_method() {
        use crate::targets::{ModuleInfo, resolve};
        let modules = [ModuleInfo::linear("a", 64, 64)];
        for r in [usize::MAX, 1 << 63, (1 << 63) - 1, 1 << 40, 1 << 30] {
            let all: [PeftConfig; 6] = [
                LoraConfig::new(r).with_target_modules(["a"]).into(),
                LoraConfig::new(4).with_rank_pattern([("a", r)]).with_target_modules(["a"]).into(),
                LoraConfig::new(r).with_dora(true).with_target_modules(["a"]).into(),
                AdaLoraConfig::new(r, 2).with_target_modules(["a"]).into(),
                VeraConfig::new(r).with_target_modules(["a"]).into(),
                LoHaConfig::new(r).with_target_modules(["a"]).into(),
            ];
            for config in all {
                let error = resolve(&config, &modules, "").unwrap_err().to_string();
                assert!(error.contains("rank"), "{error}");
            }
        }
    }

    #[test]
    fn a_string_is_all_linear_or_a_regular_expression() {
        let targets = |text: &str| LoraConfig::new(8).with_target_modules(text).target_modules;
        assert_eq!(targets("all-linear"), TargetModules::AllLinear);
        assert_eq!(targets(r".*\.q_proj"), TargetModules::regex(r".*\.q_proj"));
        let ia3 = Ia3Config::new().with_feedforward_modules(["head"]);
        assert_eq!(ia3.feedforward_modules, Some(ModuleNames::list(["head"])));
        assert_eq!(LoHaConfig::new(4).with_layers_to_transform(3).layers_to_transform, Some(OneOrMany::One(3)));
    }

    #[test]
    fn every_method_is_valid_as_its_builder_begins_it_and_every_preset_has_a_name() {
        let target = ["a"];
        let all: [PeftConfig; 6] = [
            LoraConfig::new(4).with_target_modules(target).into(),
            LoraConfig::new(4).with_dora(true).with_target_modules(target).into(),
            AdaLoraConfig::new(6, 2).with_phases(10, 20, 5).with_total_step(100).with_target_modules(target).into(),
            VeraConfig::new(64).with_d_initial(1.0).with_target_modules(target).into(),
            Ia3Config::new().with_target_modules(target).into(),
            LoHaConfig::new(4).with_target_modules(target).into(),
        ];
        all.iter().for_each(|config| config.validate().unwrap());
        let names: Vec<_> = PeftConfig::presets(100).into_iter().map(|preset| preset.name).collect();
        for name in names {
            let preset = PeftConfig::preset(name, 100).unwrap();
            let config = preset.config.with_target_modules(target);
            assert_eq!(config.target_modules(), &TargetModules::list(target));
            config.validate().unwrap();
        }
        assert!(PeftConfig::preset("lorra", 100).is_none());
    }
}
