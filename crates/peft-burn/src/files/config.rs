//! `adapter_config.json`, key for key as PEFT writes and reads it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::mlx;
use super::names::CONFIG_NAME;
use crate::config::keys::is_off;
use crate::config::reader::{Reader, nearest};
use crate::config::{Object, TaskType};
use crate::error::{PeftError, Result};
use crate::methods::PeftConfig;
use crate::tensor_file::write_atomic;

/// The problem of a key that PEFT once had, and whose meaning no other key took over.
fn older_feature(key: &str, config: &Object) -> Option<String> {
    let what = match key {
        "enable_lora" => "LoRA on parts of a joined projection, which PEFT 0.2 had",
        _ => return None,
    };
    let value = config.get(key)?;
    Some(format!("{key} = {value} is not supported: {what}; fold the adapter into its base with that release"))
}

impl PeftConfig {
    /// Reads `adapter_config.json` in `dir`, as PEFT does: missing keys take their defaults, unknown keys are
    /// ignored, and each that is switched on is returned as a warning. [`validate`](crate::methods::MethodConfig::validate) is left to the caller.
    ///
    /// # Errors
    /// [`PeftError::Io`], [`PeftError::Json`], or [`PeftError::Config`] that lists every value of the wrong kind.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<(Self, Vec<String>)> {
        let path = dir.as_ref().join(CONFIG_NAME);
        let text = fs::read(&path).map_err(PeftError::io(&path))?;
        Self::from_json(&text, &path)
    }

    /// As [`Self::from_dir`], of the contents of an `adapter_config.json`; `path` names it in errors.
    ///
    /// # Errors
    /// As [`Self::from_dir`].
    pub fn from_json(text: &[u8], path: impl AsRef<Path>) -> Result<(Self, Vec<String>)> {
        let path = path.as_ref();
        let object: Object =
            serde_json::from_slice(text).map_err(|source| PeftError::Json { path: path.to_owned(), source })?;
        if mlx::is_mlx(&object) {
            let (program, way_out) = ("mlx-lm", "make one of PEFT's of it by `rewrite_adapter`");
            return Err(PeftError::AnotherProgram { path: path.to_owned(), program, way_out });
        }
        let origin = path.display().to_string();
        let given = object.clone();
        let (config, reader) = Self::read(object, &origin)?;
        let unknown: Vec<_> =
            reader.unknown().filter(|key| given.get(key).is_some_and(|value| !is_off(value))).collect();
        let mut problems = reader.problems();
        problems.extend(unknown.iter().filter_map(|key| older_feature(key, &given)));
        let useless = config.useless_keys(&given);
        if !problems.is_empty() {
            return Err(PeftError::Config { origin, problems });
        }
        let mut warnings: Vec<_> = unknown
            .iter()
            .map(|key| format!("{origin}: unknown key `{key}` ignored; another release of PEFT may have written it"))
            .collect();
        warnings.extend(useless.map(|line| format!("{origin}: {line}")));
        Ok((config, warnings))
    }

    /// Reads what a user wrote, strictly: an unknown key is an error that names the nearest known one, and the
    /// result is [valid](crate::methods::MethodConfig::validate).
    ///
    /// # Errors
    /// [`PeftError::Config`] that lists every problem.
    pub fn from_map(object: Object) -> Result<Self> {
        let origin = "adapter";
        let given = object.clone();
        let (config, reader) = Self::read(object, origin)?;
        let unknown: Vec<_> = reader.unknown().map(|key| config.unknown_key(&key)).collect();
        let mut problems = reader.problems();
        problems.extend(unknown);
        problems.extend(config.useless_keys(&given));
        problems.extend(config.problems());
        if problems.is_empty() { Ok(config) } else { Err(PeftError::Config { origin: origin.into(), problems }) }
    }

    /// The configuration, with what is wrong with its keys.
    fn read(mut object: Object, origin: &str) -> Result<(Self, Reader)> {
        let peft_type = object.shift_remove("peft_type");
        let mut reader = Reader::default();
        let mut keys = reader.section("", object);
        let known: Vec<_> = Self::all().iter().map(|config| format!("\"{}\"", config.peft_type())).collect();
        let (last, others) = known.split_last().map_or(("", &[][..]), |(last, others)| (last.as_str(), others));
        let known = format!("{} or {last}", others.join(", "));
        let problem = match peft_type.as_ref().map(|name| name.as_str().unwrap_or_default()) {
            Some(name) if name.eq_ignore_ascii_case("dora") => {
                "peft_type: DoRA is peft_type = \"LORA\" with use_dora = true".into()
            }
            Some(name) => match Self::read_as(name, &mut keys) {
                Some(config) => {
                    keys.finish();
                    return Ok((config, reader));
                }
                None => format!("peft_type = {} is not supported; use {known}", peft_type.unwrap_or_default()),
            },
            None => format!("peft_type is missing; set {known}"),
        };
        Err(PeftError::Config { origin: origin.into(), problems: vec![problem] })
    }

    /// The problem of a key that this method does not have.
    fn unknown_key(&self, key: &str) -> String {
        let others: Vec<_> = Self::all()
            .iter()
            .filter(|config| config.to_json().contains_key(key))
            .map(|config| config.peft_type())
            .collect();
        if !others.is_empty() {
            return format!("`{key}` is a key of {}, not of {}", others.join(", "), self.peft_type());
        }
        let known = self.to_json();
        match nearest(known.keys().map(String::as_str), key) {
            Some((likeness, name)) if likeness > 0.8 => format!("unknown key `{key}`; did you mean `{name}`?"),
            _ => format!("unknown key `{key}`"),
        }
    }

    /// The object that a user would write: `peft_type` and the keys that are not at the method's defaults.
    pub fn to_user_json(&self) -> Object {
        let mut object = self.to_json();
        let default = Self::all().into_iter().find(|config| config.peft_type() == self.peft_type());
        let default = default.map(|config| config.to_json()).unwrap_or_default();
        object.retain(|key, value| key == "peft_type" || default.get(key) != Some(value));
        object
    }

    /// Writes `adapter_config.json` into `dir`, which is created if need be; an old file is replaced in one step.
    ///
    /// # Errors
    /// [`PeftError::Io`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(PeftError::io(dir))?;
        write_atomic(dir.join(CONFIG_NAME), format!("{:#}", Value::Object(self.to_json())).as_bytes())
    }

    /// Notes what PEFT notes of an adapter's origin, where it is not set yet: the base model, and that it models
    /// language, by which `AutoPeftModelForCausalLM` finds and loads both.
    pub fn for_causal_lm(mut self, base_model_name_or_path: &str) -> Self {
        let shared = self.shared_mut();
        shared.base_model_name_or_path.get_or_insert_with(|| base_model_name_or_path.to_owned());
        shared.task_type.get_or_insert(TaskType::CausalLm);
        self
    }
}
