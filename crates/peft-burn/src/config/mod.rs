//! Configurations: PEFT's `adapter_config.json`, key for key.

pub(crate) mod checks;
mod common;
pub(crate) mod keys;
pub(crate) mod patterns;

use std::fs;
use std::path::Path;

use serde_json::Value;

pub use common::{Bias, InitLoraWeights, ModuleNames, OneOrMany, TargetModules, TaskType};
pub use keys::{Object, OtherKeys};
pub use patterns::Patterns;

use self::keys::{MethodConfig, Read};
pub use crate::methods::{AdaLoraConfig, Ia3Config, LoraConfig, TokenIndices, VeraConfig};
use crate::tensor_file::write_atomic;
use crate::{PeftError, Result};

/// The version of PEFT whose format is written.
pub const PEFT_VERSION: &str = "0.21.2";

/// Name of the configuration's file in an adapter's directory.
pub const CONFIG_NAME: &str = "adapter_config.json";

/// The configuration of an adapter, by `peft_type`.
#[derive(Debug, Clone, PartialEq)]
pub enum PeftConfig {
    /// `LORA`, and DoRA with `use_dora`.
    Lora(LoraConfig),
    /// `ADALORA`.
    AdaLora(AdaLoraConfig),
    /// `VERA`.
    Vera(VeraConfig),
    /// `IA3`.
    Ia3(Ia3Config),
}

/// Applies an expression to whichever configuration it is.
macro_rules! each {
    ($config:expr, $inner:ident => $body:expr) => {
        match $config {
            PeftConfig::Lora($inner) => $body,
            PeftConfig::AdaLora($inner) => $body,
            PeftConfig::Vera($inner) => $body,
            PeftConfig::Ia3($inner) => $body,
        }
    };
}

impl PeftConfig {
    /// Reads `adapter_config.json` in `dir`, as PEFT does: missing keys take their defaults, unknown keys are
    /// ignored, and each is returned as a warning. [`validate`](Self::validate) is left to the caller.
    ///
    /// # Errors
    /// [`PeftError::Io`], [`PeftError::Json`], or [`PeftError::Config`] that lists every value of the wrong kind.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<(Self, Vec<String>)> {
        let path = dir.as_ref().join(CONFIG_NAME);
        let text = fs::read(&path).map_err(PeftError::io(&path))?;
        let object: Object =
            serde_json::from_slice(&text).map_err(|source| PeftError::Json { path: path.clone(), source })?;
        let origin = path.display().to_string();
        let Read { config, problems, unknown } = Self::read(object, &origin)?;
        if !problems.is_empty() {
            return Err(PeftError::Config { origin, problems });
        }
        let mut warnings: Vec<_> = unknown
            .iter()
            .map(|key| format!("{origin}: unknown key `{key}` ignored; a newer PEFT may have written it"))
            .collect();
        if let Self::AdaLora(config) = &config
            && config.other.get("r").is_some_and(|r| *r != 8)
        {
            warnings.push(format!("{origin}: AdaLoRA does not use `r`; its ranks are init_r and target_r"));
        }
        Ok((config, warnings))
    }

    /// Reads what a user wrote, strictly: an unknown key is an error that names the nearest known one, and the
    /// result is [valid](Self::validate).
    ///
    /// # Errors
    /// [`PeftError::Config`] that lists every problem.
    pub fn from_map(object: Object) -> Result<Self> {
        let origin = "adapter";
        // PEFT itself writes `r: 8` beside the ranks that count.
        let sets_r = object.get("r").is_some_and(|r| *r != 8 || !object.contains_key("init_r"));
        let Read { config, mut problems, unknown } = Self::read(object, origin)?;
        problems.extend(unknown.iter().map(|key| config.unknown_key(key)));
        if sets_r && matches!(config, Self::AdaLora(_)) {
            problems.push("r is not used by ADALORA; set init_r and target_r".into());
        }
        problems.extend(config.problems());
        if problems.is_empty() { Ok(config) } else { Err(PeftError::Config { origin: origin.into(), problems }) }
    }

    fn read(mut object: Object, origin: &str) -> Result<Read<Self>> {
        fn as_any<T: MethodConfig>(object: Object, wrap: fn(T) -> PeftConfig) -> Read<PeftConfig> {
            let Read { config, problems, unknown } = keys::read(object);
            Read { config: wrap(config), problems, unknown }
        }
        let peft_type = object.shift_remove("peft_type");
        let problem = match peft_type.as_ref().map(|name| name.as_str().unwrap_or_default()) {
            Some(LoraConfig::PEFT_TYPE) => return Ok(as_any(object, Self::Lora)),
            Some(AdaLoraConfig::PEFT_TYPE) => return Ok(as_any(object, Self::AdaLora)),
            Some(VeraConfig::PEFT_TYPE) => return Ok(as_any(object, Self::Vera)),
            Some(Ia3Config::PEFT_TYPE) => return Ok(as_any(object, Self::Ia3)),
            Some(name) if name.eq_ignore_ascii_case("dora") => {
                "peft_type: DoRA is peft_type = \"LORA\" with use_dora = true".into()
            }
            Some(_) => format!(
                "peft_type = {} is not supported; use \"LORA\", \"ADALORA\", \"VERA\" or \"IA3\"",
                peft_type.unwrap_or_default()
            ),
            None => "peft_type is missing; set \"LORA\", \"ADALORA\", \"VERA\" or \"IA3\"".into(),
        };
        Err(PeftError::Config { origin: origin.into(), problems: vec![problem] })
    }

    /// What to say about a key that this method does not have.
    fn unknown_key(&self, key: &str) -> String {
        let methods = [
            Self::Lora(LoraConfig::default()),
            Self::AdaLora(AdaLoraConfig::default()),
            Self::Vera(VeraConfig::default()),
            Self::Ia3(Ia3Config::default()),
        ];
        let others: Vec<_> =
            methods.iter().filter(|config| config.to_json().contains_key(key)).map(Self::peft_type).collect();
        if !others.is_empty() {
            return format!("`{key}` is a key of {}, not of {}", others.join(", "), self.peft_type());
        }
        let known = self.to_json();
        let nearest = known
            .keys()
            .map(|name| (strsim::jaro_winkler(&key.to_lowercase(), &name.to_lowercase()), name))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match nearest {
            Some((likeness, name)) if likeness > 0.8 => format!("unknown key `{key}`; did you mean `{name}`?"),
            _ => format!("unknown key `{key}`"),
        }
    }

    /// Checks values and their combinations.
    ///
    /// # Errors
    /// [`PeftError::Config`] that lists every problem.
    pub fn validate(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        Err(PeftError::Config { origin: format!("{} configuration", self.peft_type()), problems })
    }

    fn problems(&self) -> Vec<String> {
        each!(self, config => config.problems())
    }

    /// The object that `adapter_config.json` holds: keys sorted, `inference_mode` true.
    pub fn to_json(&self) -> Object {
        let mut object = each!(self, config => keys::object(config));
        object.insert("peft_type".into(), self.peft_type().into());
        object.insert("inference_mode".into(), Value::Bool(true));
        object.sort_keys();
        object
    }

    /// Writes `adapter_config.json` into `dir`, which is created if need be; an old file is replaced in one step.
    ///
    /// # Errors
    /// [`PeftError::Io`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(PeftError::io(dir))?;
        write_atomic(&dir.join(CONFIG_NAME), format!("{:#}", Value::Object(self.to_json())).as_bytes())
    }

    /// The name of the method in files.
    pub fn peft_type(&self) -> &'static str {
        fn name<T: MethodConfig>(_: &T) -> &'static str {
            T::PEFT_TYPE
        }
        each!(self, config => name(config))
    }

    /// Which modules get an adapter.
    pub fn target_modules(&self) -> &TargetModules {
        each!(self, config => &config.target_modules)
    }

    pub(crate) fn target_modules_mut(&mut self) -> &mut TargetModules {
        each!(self, config => &mut config.target_modules)
    }

    pub(crate) fn modules_to_save_mut(&mut self) -> &mut Option<Vec<String>> {
        each!(self, config => &mut config.modules_to_save)
    }

    /// Modules that are trained and saved whole.
    pub fn modules_to_save(&self) -> &[String] {
        each!(self, config => config.modules_to_save.as_deref().unwrap_or_default())
    }

    /// What the model is trained for.
    pub fn task_type(&self) -> Option<TaskType> {
        each!(self, config => config.task_type)
    }

    /// Where the base model came from.
    pub fn base_model_name_or_path(&self) -> Option<&str> {
        each!(self, config => config.base_model_name_or_path.as_deref())
    }

    /// Notes what PEFT notes of an adapter's origin, where it is not set yet: the base model, and that it models
    /// language, by which `AutoPeftModelForCausalLM` finds and loads both.
    pub fn for_causal_lm(mut self, base_model_name_or_path: &str) -> Self {
        each!(&mut self, config => {
            config.base_model_name_or_path.get_or_insert_with(|| base_model_name_or_path.to_owned());
            config.task_type.get_or_insert(TaskType::CausalLm);
        });
        self
    }

    /// Which biases of the base model are trained; IA3 trains none.
    pub fn bias(&self) -> Bias {
        match self {
            Self::Lora(config) => config.bias,
            Self::AdaLora(config) => config.bias,
            Self::Vera(config) => config.bias,
            Self::Ia3(_) => Bias::None,
        }
    }

    /// Modules to leave out of the targets; VeRA has no such key.
    pub fn exclude_modules(&self) -> Option<&ModuleNames> {
        match self {
            Self::Lora(config) => config.exclude_modules.as_ref(),
            Self::AdaLora(config) => config.exclude_modules.as_ref(),
            Self::Vera(_) => None,
            Self::Ia3(config) => config.exclude_modules.as_ref(),
        }
    }

    /// Layer numbers and the name of their list that narrow the targets; IA3 has no such keys.
    pub fn layers(&self) -> (Option<&OneOrMany<usize>>, Option<&OneOrMany<String>>) {
        match self {
            Self::Lora(config) => (config.layers_to_transform.as_ref(), config.layers_pattern.as_ref()),
            Self::AdaLora(config) => (config.layers_to_transform.as_ref(), config.layers_pattern.as_ref()),
            Self::Vera(config) => (config.layers_to_transform.as_ref(), config.layers_pattern.as_ref()),
            Self::Ia3(_) => (None, None),
        }
    }

    /// Probability of dropping an element of the adapter's input in training; IA3 has none.
    pub fn dropout(&self) -> f64 {
        match self {
            Self::Lora(config) => config.lora_dropout,
            Self::AdaLora(config) => config.lora_dropout,
            Self::Vera(config) => config.vera_dropout,
            Self::Ia3(_) => 0.0,
        }
    }
}

macro_rules! from {
    ($($variant:ident($config:ident)),*) => {$(
        impl From<$config> for PeftConfig {
            fn from(config: $config) -> Self {
                Self::$variant(config)
            }
        }
    )*};
}

from!(Lora(LoraConfig), AdaLora(AdaLoraConfig), Vera(VeraConfig), Ia3(Ia3Config));
