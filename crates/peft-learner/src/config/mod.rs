//! A run's configuration: one TOML file, with Transformers' and PEFT's own key names.

mod adapter;
mod data;
mod overrides;
mod to_json;
mod training;
mod validate;

use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::Table;

use crate::error::{LearnerError, Problems, Result};
pub use adapter::AdapterSource;
pub use data::DataConfig;
pub use llama_burn::{Dtype, LoadDtype, QuantizationKind};
use llama_burn::{LoadOptions, Quantize};
use peft_burn::reader::{Reader, Section};
pub use training::{LrSchedulerType, TrainingConfig};

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
    /// The adapter that is trained.
    pub adapter: AdapterSource,
    /// The data it is trained on.
    pub data: DataConfig,
    /// Steps, batches, optimiser, evaluation and checkpoints.
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
            overrides::apply(&mut root, text).unwrap_or_else(|problem| reader.problem(problem));
        }
        let root = &mut to_json::table(root);
        let model = ModelConfig::read(reader.take_section(root, "model"));
        let adapter = AdapterSource::read(reader.take_section(root, "adapter"));
        let data = DataConfig::read(reader.take_section(root, "data"));
        let training = TrainingConfig::read(reader.take_section(root, "training"));
        let mut top = reader.section("", std::mem::take(root));
        top.knows(["model", "adapter", "data", "training"]);
        let (output, seed) = (top.required("output").into(), top.or("seed", 42));
        top.finish();
        let config = Self { output, seed, model, adapter, data, training };
        let mut problems: Problems = reader.problems_and_unknown().into_iter().collect();
        validate::validate(&config, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(LearnerError::Config { file, problems }) }
    }

    /// The resolved configuration as TOML, defaults written out: [`load`](Self::load) of it gives this one again.
    ///
    /// # Errors
    /// [`LearnerError::ConfigSyntax`] where TOML cannot say it, such as an integer beyond 63 bits.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(no_toml)
    }

    /// The configuration as a TOML table.
    ///
    /// # Errors
    /// As [`to_toml`](Self::to_toml).
    pub fn to_table(&self) -> Result<Table> {
        Table::try_from(self).map_err(no_toml)
    }
}

fn no_toml(error: toml::ser::Error) -> LearnerError {
    LearnerError::ConfigSyntax { file: "config.toml".into(), message: error.to_string() }
}

/// The frozen base model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelConfig {
    /// A Hugging Face directory or a hub id.
    pub path: String,
    /// The dtype of the frozen weights; adapters stay f32.
    pub dtype: LoadDtype,
    /// The format that the weights of projections are packed in while they are loaded; without one they are as they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationKind>,
    /// Whether the scales of a 4-bit format are quantised too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub double_quantization: bool,
    /// Modules that stay dense beside the head.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_modules: Vec<String>,
}

impl ModelConfig {
    fn read(mut section: Section<'_>) -> Self {
        let config = Self {
            path: section.required("path"),
            dtype: section.or("dtype", LoadDtype::default()),
            quantization: section.or("quantization", None),
            double_quantization: section.or("double_quantization", false),
            skip_modules: section.or("skip_modules", Vec::new()),
        };
        section.finish();
        config
    }

    /// The model at `path`, its weights in f32.
    pub fn new(path: impl Into<String>) -> Self {
        let (quantization, skip_modules) = (None, Vec::new());
        Self { path: path.into(), dtype: LoadDtype::default(), quantization, double_quantization: false, skip_modules }
    }

    /// How the weights are loaded.
    pub fn load_options(&self) -> LoadOptions {
        let quantize = Quantize::asked(self.quantization, self.double_quantization, self.skip_modules.clone());
        LoadOptions::from(Option::from(self.dtype)).with_quantize(quantize)
    }
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
        assert_eq!((config.seed, config.model.dtype), (42, LoadDtype::As(Dtype::F32)));
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
            "`model.dtype`: unknown dtype `f64`, expected one of f32, bf16, f16, auto",
            "`adapter.from` brings its own configuration, so `r` cannot stand beside it",
            "`data.train` is missing",
            "`training.per_device_train_batch_size` is 0; it must be at least 1",
            "`training.learning_rate` is -1; it must be between 0 and 1",
            "`training.warmup_steps` is 20; it must be at most `training.max_steps`, 10",
            "`training.adam_beta1`: invalid type: string \"high\", expected f64",
            "the change `max_grad_norm` has no `=`",
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
        assert!(problems("model = 'base'", &[]).contains("`model` is a section, `[model]`, not a string"));
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
        keys.insert("layers_pattern".into(), serde_json::Value::Null);
        assert!(!config.to_toml().unwrap().contains("layers_pattern"), "TOML has no null: the key is absent");

        let from = parse(&MINIMAL.replace("peft_type = \"LORA\"", "from = \"runs/b\""), &[]).unwrap();
        assert_eq!(from.adapter, AdapterSource::From("runs/b".into()));
        assert_eq!(parse(&from.to_toml().unwrap(), &[]).unwrap(), from);
    }
}
