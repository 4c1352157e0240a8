//! A whole run from its configuration: model, adapter, data, training, and what it leaves behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};
pub use llama_burn::Text;
use llama_burn::{Conversation, Encoded, Llama, LlamaConfig, Message, hub};
use peft_burn::{AdapterFiles, PeftConfig, PeftModel, TrainableReport};

use crate::adalora;
use crate::config::{AdapterSource, Dtype, RunConfig};
use crate::data::{
    ChatMessage, EncodeError, EncodeOptions, EncodeReport, Example, Rows, Stream, StreamConfig, TextEncoder,
    encode_rows,
};
use crate::error::{LearnerError, Problems, Result};
use crate::files::write_whole;
use crate::fit::{FitOptions, FitReport, fit};
use crate::replicas;

/// The name of the adapter that a run trains.
pub const ADAPTER: &str = "default";

impl TextEncoder for Text {
    fn encode_text(&self, text: &str) -> Result<Encoded, EncodeError> {
        Ok(Text::encode_text(self, text)?)
    }

    fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Encoded, EncodeError> {
        Ok(Text::encode_completion(self, prompt, completion)?)
    }

    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Encoded, EncodeError> {
        let messages = messages.iter().map(|m| Message::new(&m.role, &m.content));
        Ok(Text::encode_chat(self, &Conversation::new(messages))?)
    }
}

/// A base model with what belongs to it.
#[derive(Debug)]
pub struct Base {
    /// The weights.
    pub model: Llama,
    /// Tokenizer and template, where the directory has them.
    pub text: Option<Text>,
    /// Where it was read from.
    pub dir: PathBuf,
}

impl Base {
    /// Loads a model directory, or a hub id where the feature `hub` is compiled in. `dtype` is that of the weights in
    /// memory; `None` keeps the files'.
    ///
    /// # Errors
    /// What [`Llama::from_dir`] and [`Text::from_dir`] report.
    pub fn load(model: &str, dtype: Option<FloatDType>, device: &Device) -> Result<Self> {
        let dir = hub::resolve(model, None)?;
        let config = LlamaConfig::from_dir(&dir)?;
        let text = Text::from_dir(&dir)?;
        if let Some(text) = &text {
            text.tokenizer.check_vocabulary(config.vocab_size)?;
        }
        let model = Llama::from_dir(&dir, dtype, device)?;
        Ok(Self { model, text, dir })
    }

    /// What fills up a batch.
    pub fn pad_id(&self) -> u32 {
        let of_text = self.text.as_ref().and_then(|t| t.tokenizer.pad_token_id());
        self.model.config().pad_token_id.or(of_text).unwrap_or(0)
    }

    /// The tokens that end a text.
    pub fn eos_ids(&self) -> Vec<u32> {
        match &self.text {
            Some(text) => text.stop.ids().to_vec(),
            None => self.model.config().eos_token_ids.clone(),
        }
    }

    /// Reads and encodes a data file.
    ///
    /// # Errors
    /// Everything that [`Rows::read`] and [`encode_rows`] report.
    pub fn examples(&self, file: &Path, max_length: usize) -> Result<(Vec<Example>, EncodeReport)> {
        let encoder = self.text.as_ref().map(|t| t as &dyn TextEncoder);
        let options = EncodeOptions { max_length, vocab_size: self.model.config().vocab_size };
        encode_rows(&Rows::read(file)?, encoder, options)
    }
}

impl From<Dtype> for FloatDType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::BF16,
        }
    }
}

/// What to do with a folder that holds a run already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it and report it.
    Refuse,
    /// Go on from its newest checkpoint.
    Resume,
    /// Replace it.
    Overwrite,
}

/// How a run is begun and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// What to do with a folder that holds a run already.
    pub existing: Existing,
    /// Burn's dashboard where stdout is a terminal; otherwise progress goes to stderr.
    pub dashboard: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// Steps, metrics and time.
    pub fit: FitReport,
    /// What encoding the training rows came to.
    pub train: EncodeReport,
    /// What encoding the validation rows came to.
    pub valid: Option<EncodeReport>,
    /// Trained and total parameters.
    pub parameters: TrainableReport,
    /// The adapter's folder.
    pub adapter: PathBuf,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Loads what `config` names and trains it. Returns the base with the trained adapter on it. `note` is told in words
/// what is going on.
///
/// # Errors
/// Whatever is wrong with the configuration, the model, the data or the folder, before training begins and before an
/// older run is replaced; and what [`fit`] reports.
pub fn train(
    config: &RunConfig,
    options: RunOptions,
    device: &Device,
    note: impl FnMut(&str),
) -> Result<(Base, RunReport)> {
    train_on(config, options, std::slice::from_ref(device), note)
}

/// As [`train`], on several devices, each of which has a replica of the model and a part of every step's rows.
///
/// # Errors
/// As [`train`]; no device, and devices that cannot train together.
pub fn train_on(
    config: &RunConfig,
    options: RunOptions,
    devices: &[Device],
    note: impl FnMut(&str),
) -> Result<(Base, RunReport)> {
    let first = devices.first().ok_or(LearnerError::NoCollective { devices: 0 })?;
    replicas::check(devices)?;
    if devices.len() > 1 && config.training.gradient_checkpointing {
        return Err(LearnerError::CheckpointedReplicas);
    }
    check_output(config, options.existing)?;
    let adapter = match &config.adapter {
        AdapterSource::Config(map) => Some(PeftConfig::from_map(map.clone())?),
        AdapterSource::From(_) => None,
    };
    let base = Base::load(&config.model.path, Some(config.model.dtype.into()), first)?;
    train_loaded(config, base, adapter, options, devices, note)
}

/// As [`train`], on a model that is in memory already. `adapter` is the configuration of a new adapter; without it, the
/// one that `config` names is read.
///
/// # Errors
/// As [`train`].
pub fn train_base(
    config: &RunConfig,
    base: Base,
    adapter: Option<PeftConfig>,
    options: RunOptions,
    note: impl FnMut(&str),
) -> Result<(Base, RunReport)> {
    train_loaded(config, base, adapter, options, &[], note)
}

fn train_loaded(
    config: &RunConfig,
    mut base: Base,
    adapter: Option<PeftConfig>,
    options: RunOptions,
    devices: &[Device],
    mut note: impl FnMut(&str),
) -> Result<(Base, RunReport)> {
    let parts = devices.len().max(1);
    check_output(config, options.existing)?;
    let (train, train_report) = base.examples(&config.data.train, config.data.max_length)?;
    note(&train_report.describe(&config.data.train));
    let (valid, valid_report) = match &config.data.valid {
        Some(file) => {
            let (examples, report) = base.examples(file, config.data.max_length)?;
            note(&report.describe(file));
            (examples, Some(report))
        }
        None => (Vec::new(), None),
    };
    let pad_id = base.pad_id();
    let stream = Stream::new(Arc::new(train), stream_config(config, pad_id, parts))?;
    let total_steps = config.training.total_steps(stream.rows_per_epoch(), parts);
    // The configuration alone tells this only where it says `max_steps`.
    let warmup_steps = config.training.warmup_steps;
    if warmup_steps > total_steps {
        return Err(LearnerError::WarmUp { warmup_steps, total_steps });
    }
    let new = |adapter: PeftConfig| adapter.for_causal_lm(&config.model.path);
    let mut warnings = match (&config.adapter, adapter) {
        (AdapterSource::From(dir), None) => base.model.load_adapter(dir, ADAPTER, true)?,
        (_, Some(adapter)) => base.model.add_adapter(ADAPTER, &new(adapter), config.seed)?,
        (AdapterSource::Config(map), None) => {
            base.model.add_adapter(ADAPTER, &new(PeftConfig::from_map(map.clone())?), config.seed)?
        }
    };
    warnings.sort();
    if let AdapterSource::From(_) = &config.adapter {
        // The schedule in an adapter's file is that of the run that made it.
        adalora::restart(&mut base.model, ADAPTER, total_steps)?;
    }
    adalora::plan(&mut base.model, Some(ADAPTER), total_steps, config.training.shrink_after_pruning)?;
    let checkpointing = config.training.gradient_checkpointing;
    let dropout = base.model.adapter_config(ADAPTER)?.dropout();
    if checkpointing && dropout > 0.0 {
        return Err(LearnerError::CheckpointedDropout { dropout });
    }
    base.model.set_gradient_checkpointing(checkpointing);
    let parameters = base.model.trainable_parameters();
    note(&parameters.to_string());
    let output = &config.output;
    if options.existing == Existing::Overwrite {
        clear(output)?;
    }
    std::fs::create_dir_all(output).map_err(LearnerError::io("create", output))?;
    write_whole(output.join("config.toml"), config.to_toml()?.as_bytes())?;
    let options = FitOptions {
        output: output.clone(),
        training: config.training.clone(),
        total_steps,
        seed: config.seed,
        adapter: Some(ADAPTER.to_owned()),
        resume: options.existing == Existing::Resume,
        dashboard: options.dashboard,
        devices: devices.to_vec(),
    };
    let (model, fit) = fit(base.model, stream, &valid, pad_id, &options)?;
    let place = output.join("adapter");
    model.save_adapter(ADAPTER, &place)?;
    base.model = model;
    let report = RunReport { fit, train: train_report, valid: valid_report, parameters, adapter: place, warnings };
    Ok((base, report))
}

fn stream_config(config: &RunConfig, pad_id: u32, parts: usize) -> StreamConfig {
    let training = &config.training;
    StreamConfig {
        batch_size: training.per_device_train_batch_size,
        accumulation: training.gradient_accumulation_steps * parts,
        shuffle: config.data.shuffle,
        group_by_length: training.group_by_length,
        packing: config.data.packing,
        max_length: config.data.max_length,
        pad_id,
        seed: config.seed,
    }
}

/// Checks that the run may write into its output folder. Nothing is changed.
///
/// # Errors
/// [`LearnerError::OutputExists`] for a folder that holds a run which is neither resumed nor overwritten,
/// [`LearnerError::ConfigChanged`] for one that was begun with another configuration.
pub fn check_output(config: &RunConfig, existing: Existing) -> Result<()> {
    let output = &config.output;
    let saved = output.join("config.toml");
    let holds_run = saved.exists() || output.join("checkpoints").exists() || output.join("metrics.jsonl").exists();
    match existing {
        Existing::Refuse if holds_run => Err(LearnerError::OutputExists { path: output.clone() }),
        Existing::Resume if saved.exists() => same_config(&saved, config),
        _ => Ok(()),
    }
}

/// Removes an older run; other files in the folder stay.
fn clear(output: &Path) -> Result<()> {
    for name in ["checkpoints", "adapter", "config.toml", "metrics.jsonl", "loss.svg", "ranks.svg"] {
        let path = output.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LearnerError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A resumed run continues bit for bit only under the configuration that it began with.
fn same_config(saved: &Path, config: &RunConfig) -> Result<()> {
    let parse = |text: &str| toml::from_str::<toml::Table>(text).unwrap_or_default();
    let old = parse(&std::fs::read_to_string(saved).map_err(LearnerError::io("read", saved))?);
    let new = parse(&config.to_toml()?);
    let mut differences = Problems::default();
    compare("", &old, &new, &mut differences);
    if differences.is_empty() {
        return Ok(());
    }
    Err(LearnerError::ConfigChanged { path: saved.to_owned(), differences })
}

fn compare(prefix: &str, old: &toml::Table, new: &toml::Table, differences: &mut Problems) {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let name = format!("{prefix}{key}");
        match (old.get(key), new.get(key)) {
            (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                compare(&format!("{name}."), a, b, differences)
            }
            (a, b) if a == b => {}
            _ if name == "output" => {}
            (a, b) => {
                let show = |v: Option<&toml::Value>| v.map_or("nothing".to_owned(), ToString::to_string);
                differences.push(format!("{name} was {} and is {}", show(a), show(b)));
            }
        }
    }
}
