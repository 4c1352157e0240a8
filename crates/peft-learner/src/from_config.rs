//! A run as a configuration file describes it: the front of [`Finetune`] that `peft train` uses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use llama_burn::{GenerateOptions, Llama};
use peft_burn::{AdapterFiles, PeftConfig, PeftModel};

use crate::base::{Base, Text};
use crate::config::{AdapterSource, RunConfig};
use crate::data::{EncodeReport, Examples, Part, Prepared, Source, Stream, StreamConfig, Valid};
use crate::error::{LearnerError, Problems, Result};
use crate::train::{Existing, Finetune, check_options, check_output, of_files, restart};

/// The name of the adapter that a configuration file's run trains.
pub const ADAPTER: &str = "default";

/// A run that is ready to be started.
#[derive(Debug)]
pub struct ConfiguredRun {
    /// The run: it has its model, its data and its options, and can be given callbacks.
    pub finetune: Finetune<Llama>,
    /// The base's tokenizer and template.
    pub text: Option<Text>,
    /// The base's folder.
    pub dir: PathBuf,
    /// The report about encoding the training rows.
    pub train: EncodeReport,
    /// The report about encoding the validation rows; `None` where they are a share of the training rows.
    pub valid: Option<EncodeReport>,
    /// Notes for the user.
    pub warnings: Vec<String>,
}

impl ConfiguredRun {
    /// Loads what `config` names. On several `devices` each has a replica of the model and a part of every step's rows.
    /// `note` is told in words what is going on.
    ///
    /// # Errors
    /// A configuration, model or data that cannot be used, and an output folder that may not be written into.
    pub fn load(config: &RunConfig, existing: Existing, devices: &[Device], note: impl FnMut(&str)) -> Result<Self> {
        let first = devices.first().ok_or(LearnerError::NoCollective { devices: 0 })?;
        check_output(&config.output, existing)?;
        if let AdapterSource::Config(map) = &config.adapter {
            // A fault of it shows before a model is loaded for nothing.
            PeftConfig::from_map(map.clone())?;
        }
        let base = Base::load(&config.model.path, config.model.load_options(), first)?;
        Self::new(config, base, existing, devices, note)
    }

    /// As [`load`](Self::load), with a base that is in memory. Without `devices` it is trained where it is.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn new(
        config: &RunConfig,
        mut base: Base,
        existing: Existing,
        devices: &[Device],
        mut note: impl FnMut(&str),
    ) -> Result<Self> {
        check_output(&config.output, existing)?;
        // First, for an adapter may bring a vocabulary of another size.
        let mut warnings = base.warnings.clone();
        let mut beside = BTreeMap::new();
        let mut of_adapter = match &config.adapter {
            AdapterSource::From(dir) => {
                let mut warnings = base.model.load_adapter(dir, ADAPTER, true)?;
                for name in base.take_text_from_adapter(dir)? {
                    let path = Path::new(dir).join(name);
                    beside.insert(name.to_owned(), std::fs::read(&path).map_err(LearnerError::io("read", &path))?);
                }
                if !beside.is_empty() {
                    let names: Vec<&str> = beside.keys().map(String::as_str).collect();
                    warnings.push(format!("the adapter's own {} take the place of the model's", names.join(", ")));
                }
                warnings
            }
            AdapterSource::Config(map) => {
                let adapter = PeftConfig::from_map(map.clone())?.for_causal_lm(&config.model.path);
                base.model.add_adapter(ADAPTER, &adapter, config.seed)?
            }
        };
        // Before rows are read, which may take minutes.
        check_options(&base.model, Some(ADAPTER), &config.training, devices.len())?;
        of_adapter.sort();
        warnings.extend(of_adapter);
        warnings.extend(base.beyond_vocabulary());
        let data = &config.data;
        let preparation =
            base.preparation(data.max_length).rows(data.rows.clone()).cache(data.cache.clone()).seed(config.seed);
        let mut prepare = |sources: &[Source], part: Part| {
            let prepared = preparation.sources(sources, part)?;
            let names: Vec<_> = sources.iter().map(ToString::to_string).collect();
            note(&prepared.report.describe(names.join(", ")));
            Ok::<_, LearnerError>(prepared)
        };
        let mut train = prepare(&data.train, Part::Train)?;
        warnings.extend(train.report.warnings());
        let (valid_examples, valid) = match &data.valid {
            None => (Examples::default(), None),
            Some(Valid::Share(share)) => (train.set_apart(*share, config.seed)?, None),
            Some(Valid::Sources(sources)) => {
                let valid = prepare(sources, Part::Valid)?;
                let two_kinds = train.report.two_kinds_of_instructions(&valid.report);
                warnings.extend(two_kinds.filter(|said| !warnings.contains(said)).into_iter().collect::<Vec<_>>());
                (valid.examples, Some(valid.report))
            }
        };
        let pad_id = base.pad_id();
        let Prepared { examples, report: train, digest } = train;
        let stream = Stream::new(examples, stream_config(config, pad_id, devices.len().max(1)))?;
        let total_steps = stream.total_steps(&config.training);
        let Base { mut model, text, dir, .. } = base;
        if let AdapterSource::From(_) = &config.adapter {
            // The schedule in an adapter's file is that of the run that made it.
            restart(&mut model, ADAPTER, total_steps)?;
        }
        note(&model.trainable_parameters().to_string());
        let mut tokenizer = of_files(&dir, is_tokenizer)?;
        if let (AdapterSource::From(adapter), false) = (&config.adapter, beside.is_empty()) {
            tokenizer = format!("{tokenizer}-{}", of_files(Path::new(adapter), is_tokenizer)?);
        }
        let finetune = Finetune::new(model, ADAPTER, config.training.clone())
            .stream(stream)
            .beside_adapter(beside)
            .valid(valid_examples)
            .pad_id(pad_id)
            .seed(config.seed)
            .existing(existing)
            .devices(devices.to_vec())
            .settings(config.to_table()?)
            .contents("data", digest)
            .contents("base", of_files(&dir, is_weights)?)
            .contents("tokenizer", tokenizer);
        let prompts = &config.training.sample_prompts;
        let finetune = match (&text, prompts.is_empty()) {
            (_, true) => finetune,
            (Some(text), false) => {
                let max_new_tokens = config.training.sample_max_new_tokens;
                finetune.samples(text, prompts, GenerateOptions { max_new_tokens, ..GenerateOptions::default() })
            }
            (None, false) => {
                let mut problems = Problems::default();
                problems.push("`training.sample_prompts` are texts, and the model has no tokenizer; leave them out");
                return Err(LearnerError::Options(problems));
            }
        };
        Ok(Self { finetune, text, dir, train, valid, warnings })
    }
}

/// A file of a model's weights, or of the shape that they are read in. Of a GGUF file the note that says which it is counts.
fn is_weights(name: &str) -> bool {
    name == "config.json" || name == "gguf.json" || [".safetensors", ".bin"].iter().any(|end| name.ends_with(end))
}

/// A file that text is made into tokens by.
fn is_tokenizer(name: &str) -> bool {
    name.starts_with("tokenizer") || name.starts_with("chat_template") || name.ends_with("tokens_map.json")
}

fn stream_config(config: &RunConfig, pad_id: u32, parts: usize) -> StreamConfig {
    let training = &config.training;
    StreamConfig {
        batch_size: training.per_device_train_batch_size,
        accumulation: training.gradient_accumulation_steps.saturating_mul(parts),
        shuffle: config.data.shuffle,
        group_by_length: training.group_by_length,
        packing: config.data.packing,
        max_length: config.data.max_length,
        pad_id,
        seed: config.seed,
    }
}
