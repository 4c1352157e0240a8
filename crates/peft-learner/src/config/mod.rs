//! A run's configuration: one TOML file, with Transformers' and PEFT's own key names.

mod overrides;
mod reader;
mod validate;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use toml::Table;

use crate::error::{LearnerError, Result};
use reader::{Reader, Section};

/// A run, as its configuration file describes it.
///
/// Relative paths are relative to the directory the program runs in, not to the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunConfig {
    /// The folder the run writes into.
    pub output: PathBuf,
    /// Seed of everything random: row order, dropout, initialisation.
    pub seed: u64,
    /// The frozen base.
    pub model: ModelConfig,
    /// What is trained.
    pub adapter: AdapterSource,
    /// What it is trained on.
    pub data: DataConfig,
    /// How.
    pub training: TrainingConfig,
}

impl RunConfig {
    /// Reads the file at `path` and applies `overrides`, each `section.key=value` as after `--set`.
    ///
    /// # Errors
    /// [`LearnerError::ConfigSyntax`] for what is no TOML, [`LearnerError::Config`] with every unknown key, missing key
    /// and impossible value at once.
    pub fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(LearnerError::io("read", path))?;
        Self::parse(path, &text, overrides)
    }

    /// [`load`](Self::load) for a text at hand; `file` is the name that errors give it.
    pub fn parse(file: impl AsRef<Path>, text: &str, overrides: &[String]) -> Result<Self> {
        let file = file.as_ref().to_path_buf();
        let mut root: Table = match toml::from_str(text) {
            Ok(root) => root,
            Err(error) => return Err(LearnerError::ConfigSyntax { file, message: error.to_string() }),
        };
        let mut reader = Reader::default();
        for text in overrides {
            overrides::apply(&mut root, text).unwrap_or_else(|problem| reader.problems.push(problem));
        }
        let model = ModelConfig::read(reader.section(&mut root, "model"));
        let adapter = AdapterSource::read(reader.section(&mut root, "adapter"));
        let data = DataConfig::read(reader.section(&mut root, "data"));
        let training = TrainingConfig::read(reader.section(&mut root, "training"));
        let mut top = reader.section(&mut root, "");
        top.knows(&["model", "adapter", "data", "training"]);
        let (output, seed) = (top.required("output").into(), top.or("seed", 42));
        top.finish();
        let config = Self { output, seed, model, adapter, data, training };
        validate::validate(&config, &mut reader.problems);
        let problems = reader.finish();
        if problems.is_empty() { Ok(config) } else { Err(LearnerError::Config { file, problems }) }
    }

    /// The resolved configuration as TOML, defaults written out: [`load`](Self::load) of it gives this one again.
    ///
    /// # Errors
    /// [`LearnerError::ConfigSyntax`] where TOML cannot say it, such as an integer beyond 63 bits.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self)
            .map_err(|error| LearnerError::ConfigSyntax { file: "config.toml".into(), message: error.to_string() })
    }
}

/// The frozen base model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelConfig {
    /// A Hugging Face directory or a hub id.
    pub path: String,
    /// What the frozen weights are held in; adapters stay f32.
    pub dtype: Dtype,
}

impl ModelConfig {
    fn read(mut section: Section<'_>) -> Self {
        let config = Self { path: section.required("path"), dtype: section.or("dtype", Dtype::default()) };
        section.finish();
        config
    }
}

/// Element type of the frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit float.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit float.
    F16,
}

/// Where the adapter comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum AdapterSource {
    /// A fresh one, from the keys of PEFT's adapter_config.json.
    Config(Map<String, Value>),
    /// The weights and the configuration of an adapter directory.
    From(PathBuf),
}

impl AdapterSource {
    /// The keys are PEFT's and checked against the method they belong to, not here.
    fn read(mut section: Section<'_>) -> Self {
        let from = section.text("from");
        let keys = section.rest();
        match from {
            Some(from) => {
                if !keys.is_empty() {
                    let keys: Vec<_> = keys.keys().map(|key| format!("`{key}`")).collect();
                    section.problem(format!(
                        "`adapter.from` brings its own configuration, so {} cannot stand beside it",
                        keys.join(", ")
                    ));
                }
                Self::From(from.into())
            }
            None => {
                if keys.is_empty() {
                    section.problem(
                        "[adapter] is missing; it needs PEFT's keys, such as `peft_type = \"LORA\"`, or `from`",
                    );
                }
                Self::Config(keys.into_iter().map(|(key, value)| (key, to_json(value))).collect())
            }
        }
    }
}

/// A `null`, which TOML cannot say, is an absent key: to PEFT the two mean the same.
impl Serialize for AdapterSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Config(map) => without_nulls(map).serialize(serializer),
            Self::From(path) => serializer.collect_map([("from", path)]),
        }
    }
}

fn without_nulls(map: &Map<String, Value>) -> Map<String, Value> {
    let kept = map.iter().filter(|(_, value)| !value.is_null());
    kept.map(|(key, value)| match value {
        Value::Object(inner) => (key.clone(), Value::Object(without_nulls(inner))),
        other => (key.clone(), other.clone()),
    })
    .collect()
}

fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(values) => values.into_iter().map(to_json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, to_json(value))).collect(),
    }
}

/// The data files and how rows become batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataConfig {
    /// JSON Lines to train on.
    pub train: PathBuf,
    /// JSON Lines to evaluate on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<PathBuf>,
    /// Longer rows are cut on the right, in tokens.
    pub max_length: usize,
    /// A new order of rows each epoch; otherwise file order.
    pub shuffle: bool,
    /// Several short rows in one, without leaking into each other.
    pub packing: bool,
}

impl DataConfig {
    fn read(mut section: Section<'_>) -> Self {
        let config = Self {
            train: section.required("train").into(),
            valid: section.text("valid").map(PathBuf::from),
            max_length: section.or("max_length", 512),
            shuffle: section.or("shuffle", true),
            packing: section.or("packing", false),
        };
        section.finish();
        config
    }
}

/// Transformers' TrainingArguments, as far as they apply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingConfig {
    /// Optimiser steps; where given, it wins over `num_train_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Passes over the training rows.
    pub num_train_epochs: f64,
    /// Rows a micro-batch.
    pub per_device_train_batch_size: usize,
    /// Micro-batches an optimiser step.
    pub gradient_accumulation_steps: usize,
    /// Rows of similar length share a micro-batch.
    pub group_by_length: bool,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// LoRA+: B matrices learn at this multiple of `learning_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// Shape of the learning rate over the run.
    pub lr_scheduler_type: LrSchedulerType,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// AdamW's, decoupled, on every trainable tensor.
    pub weight_decay: f64,
    /// AdamW's first decay.
    pub adam_beta1: f64,
    /// AdamW's second decay.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// Bound on the norm of all gradients together; 0 = off.
    pub max_grad_norm: f64,
    /// Steps between evaluations.
    pub eval_steps: usize,
    /// Steps between checkpoints.
    pub save_steps: usize,
    /// Checkpoints kept.
    pub save_total_limit: usize,
    /// Recompute activations in backward: more time, less memory.
    pub gradient_checkpointing: bool,
}

impl TrainingConfig {
    fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let config = Self {
            max_steps: section.get("max_steps"),
            num_train_epochs: section.or("num_train_epochs", default.num_train_epochs),
            per_device_train_batch_size: section.or("per_device_train_batch_size", default.per_device_train_batch_size),
            gradient_accumulation_steps: section.or("gradient_accumulation_steps", default.gradient_accumulation_steps),
            group_by_length: section.or("group_by_length", default.group_by_length),
            learning_rate: section.or("learning_rate", default.learning_rate),
            loraplus_lr_ratio: section.get("loraplus_lr_ratio"),
            lr_scheduler_type: section.or("lr_scheduler_type", default.lr_scheduler_type),
            warmup_steps: section.or("warmup_steps", default.warmup_steps),
            weight_decay: section.or("weight_decay", default.weight_decay),
            adam_beta1: section.or("adam_beta1", default.adam_beta1),
            adam_beta2: section.or("adam_beta2", default.adam_beta2),
            adam_epsilon: section.or("adam_epsilon", default.adam_epsilon),
            max_grad_norm: section.or("max_grad_norm", default.max_grad_norm),
            eval_steps: section.or("eval_steps", default.eval_steps),
            save_steps: section.or("save_steps", default.save_steps),
            save_total_limit: section.or("save_total_limit", default.save_total_limit),
            gradient_checkpointing: section.or("gradient_checkpointing", default.gradient_checkpointing),
        };
        section.finish();
        config
    }

    /// Optimiser steps of a run over `rows` rows (packed rows count as one): `max_steps`, or as many as it takes to
    /// read all rows `num_train_epochs` times.
    pub fn total_steps(&self, rows: usize) -> usize {
        let rows_a_step = self.per_device_train_batch_size * self.gradient_accumulation_steps;
        let by_epochs = (self.num_train_epochs * rows as f64 / rows_a_step as f64).ceil() as usize;
        self.max_steps.unwrap_or(by_epochs.max(1))
    }
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            max_steps: None,
            num_train_epochs: 3.0,
            per_device_train_batch_size: 4,
            gradient_accumulation_steps: 1,
            group_by_length: false,
            learning_rate: 2e-4,
            loraplus_lr_ratio: None,
            lr_scheduler_type: LrSchedulerType::default(),
            warmup_steps: 0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            eval_steps: 50,
            save_steps: 50,
            save_total_limit: 2,
            gradient_checkpointing: false,
        }
    }
}

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedulerType {
    /// Stays at the peak.
    Constant,
    /// Falls to 0 in a line.
    Linear,
    /// Falls to 0 along half a cosine.
    #[default]
    Cosine,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        output = "runs/a"
        [model]
        path = "base"
        [adapter]
        peft_type = "LORA"
        [data]
        train = "train.jsonl"
    "#;

    fn parse(text: &str, overrides: &[&str]) -> Result<RunConfig> {
        RunConfig::parse("run.toml", text, &overrides.iter().map(|text| text.to_string()).collect::<Vec<_>>())
    }

    fn problems(text: &str, overrides: &[&str]) -> String {
        parse(text, overrides).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = parse(MINIMAL, &[]).unwrap();
        assert_eq!((config.seed, config.model.dtype), (42, Dtype::F32));
        assert_eq!((config.data.max_length, config.data.shuffle, config.data.packing), (512, true, false));
        let training = &config.training;
        assert_eq!(*training, TrainingConfig::default());
        assert_eq!((training.learning_rate, training.lr_scheduler_type), (2e-4, LrSchedulerType::Cosine));
        assert_eq!((training.eval_steps, training.save_steps, training.save_total_limit), (50, 50, 2));
    }

    #[test]
    fn every_problem_is_in_one_error_that_names_the_file() {
        let text = r#"
            output = "runs/a"
            sed = 3
            [model]
            path = "base"
            dtype = "f64"
            learning_rate = 0.1
            [adapter]
            from = "runs/b/adapter"
            r = 8
            [data]
            max_lenght = 128
            [training]
            per_device_train_batch_size = 0
            learning_rate = -1
            warmup_steps = 20
            max_steps = 10
            adam_beta1 = "high"
        "#;
        let text = problems(text, &["max_grad_norm"]);
        for part in [
            "`run.toml` cannot be used",
            "unknown key `sed`; the nearest known key is `seed`",
            "unknown key `data.max_lenght`; the nearest known key is `max_length`",
            "unknown key `model.learning_rate`; it belongs into [training]",
            "`model.dtype`: unknown variant `f64`, expected one of `f32`, `bf16`, `f16`",
            "`adapter.from` brings its own configuration, so `r` cannot stand beside it",
            "`data.train` is missing",
            "`training.per_device_train_batch_size` is 0; it must be at least 1",
            "`training.learning_rate` is -1; it must be between 0 and 1",
            "`training.warmup_steps` is 20; it must be at most `training.max_steps`, 10",
            "`training.adam_beta1`: invalid type: string \"high\", expected f64",
            "`--set max_grad_norm` has no `=`",
        ] {
            assert!(text.contains(part), "missing: {part}\nin: {text}");
        }
        assert_eq!(text.matches("\n  - ").count(), 11, "{text}");
    }

    #[test]
    fn an_unknown_section_and_a_missing_one_are_named() {
        let text = problems("output = 'a'\n[modell]\npath = 'b'\n[data]\ntrain = 'c'\n[adapter]\nr = 4", &[]);
        assert!(text.contains("unknown key `modell`; the nearest known key is `model`"), "{text}");
        assert!(text.contains("`model.path` is missing"), "{text}");
        assert!(
            problems("output = 'a'\n[model]\npath = 'b'\n[data]\ntrain = 'c'", &[]).contains("[adapter] is missing")
        );
        assert!(problems(&MINIMAL.replace("base", ""), &[]).contains("`model.path` is empty"));
        assert!(problems("model = 'base'", &[]).contains("`model` is a section, `[model]`, not string"));
    }

    #[test]
    fn length_groups_go_with_neither_packing_nor_file_order() {
        let text = problems(MINIMAL, &["data.packing=true", "training.group_by_length=true", "data.shuffle=false"]);
        assert!(text.contains("exclude each other") && text.contains("asks for file order"), "{text}");
    }

    #[test]
    fn no_toml_is_shown_with_its_place() {
        let text = problems("output = \"runs/a\"\nseed = = 3", &[]);
        assert!(text.contains("`run.toml` is not valid TOML") && text.contains("line 2"), "{text}");
    }

    #[test]
    fn the_resolved_file_reads_back_as_the_same_run() {
        let overrides = ["training.max_steps=7", "data.valid=v.jsonl", "adapter.rank_pattern.q_proj=4"];
        let mut config = parse(MINIMAL, &overrides).unwrap();
        assert_eq!(parse(&config.to_toml().unwrap(), &[]).unwrap(), config);
        let AdapterSource::Config(keys) = &mut config.adapter else { unreachable!() };
        assert_eq!(keys["rank_pattern"]["q_proj"], 4);
        keys.insert("layers_pattern".into(), Value::Null);
        assert!(!config.to_toml().unwrap().contains("layers_pattern"), "TOML has no null: the key is absent");

        let from = parse(&MINIMAL.replace("peft_type = \"LORA\"", "from = \"runs/b\""), &[]).unwrap();
        assert_eq!(from.adapter, AdapterSource::From("runs/b".into()));
        assert_eq!(parse(&from.to_toml().unwrap(), &[]).unwrap(), from);
    }

    #[test]
    fn steps_come_from_epochs_unless_given() {
        let mut training = TrainingConfig { gradient_accumulation_steps: 2, ..TrainingConfig::default() };
        assert_eq!(training.total_steps(20), 8, "60 rows, 8 a step");
        training.num_train_epochs = 0.01;
        assert_eq!(training.total_steps(20), 1);
        training.max_steps = Some(100);
        assert_eq!(training.total_steps(20), 100);
    }
}
