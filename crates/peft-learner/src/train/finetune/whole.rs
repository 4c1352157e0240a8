//! A run from its checks to its report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use llama_burn::CausalModel;
use peft_burn::PeftModel;
use peft_burn::adalora::kept_ranks;

use super::builder::{Finetune, Report, Train};
use crate::data::{Stream, StreamConfig};
use crate::error::{LearnerError, Problems, Result, StreamError};
use crate::report::{EvalReport, read_metrics, write_loss_plot, write_rank_plot};
use crate::train::checkpoint::{Checkpoints, Saving, TrainerState};
use crate::train::checks::{self, Found, Parts};
use crate::train::output_folder::{Existing, OutputFolder, check_output};
use crate::train::{contents, settings};
use crate::whole_file::write_whole;

impl<M: CausalModel> Finetune<M> {
    /// Trains, writing into the folder `dir`, and returns the model in validation mode.
    ///
    /// # Errors
    /// Options, model, data and folder that do not go together, before anything is written; then a file that cannot be
    /// written, a loss that is not finite, and a run that was asked to end: the last checkpoint is kept, and named.
    pub fn run(mut self, dir: impl AsRef<Path>) -> Result<(M, Report)> {
        let (dir, started) = (dir.as_ref(), Instant::now());
        let stream = self.take_stream()?;
        let total_steps = stream.total_steps(&self.training);
        let found = self.check(&stream, total_steps)?;
        check_output(dir, self.existing)?;
        let settings = self.settings.take().map_or_else(|| self.own_settings(), Ok)?;
        let saved = dir.join("config.toml");
        let checkpoints = self.checkpoints(dir, total_steps)?;
        let changed = match self.existing {
            Existing::Resume => {
                let before = checkpoints.latest_state()?;
                let known = before.as_ref().map(|state| state.contents.clone()).unwrap_or_default();
                let changed = if saved.exists() { settings::compare(&saved, &settings, &known)? } else { Vec::new() };
                if let Some(before) = before {
                    before.check(checkpoints.state(), found.pruning.is_some())?;
                }
                changed
            }
            _ => Vec::new(),
        };
        let text = toml::to_string_pretty(&settings)
            .map_err(|error| LearnerError::ConfigSyntax { file: saved, message: error.to_string() })?;
        self.model.set_gradient_checkpointing(self.training.gradient_checkpointing);
        let parameters = self.model.trainable_parameters();

        let folder = OutputFolder::claim(dir, self.existing)?;
        write_whole(folder.join("config.toml"), text.as_bytes())?;
        let (adapter, saving) = (self.adapter.clone(), self.saving());
        let explained = |error: LearnerError| match error {
            LearnerError::NotFinite { step, loss, grad_norm, .. } => {
                LearnerError::NotFinite { step, loss, grad_norm, last_good: checkpoints.latest() }
            }
            full if full.is_disk_full() => {
                LearnerError::DiskFull { dir: dir.to_owned(), source: Box::new(full), last: checkpoints.latest() }
            }
            other => other,
        };
        let written = self.launch(&folder, &checkpoints, stream, total_steps, found, &changed).and_then(|trained| {
            let (model, steps, resumed_from, stopped_early) = trained;
            let metrics = read_metrics(folder.join("metrics.jsonl"))?;
            write_loss_plot(folder.join("loss.svg"), "Loss", &metrics)?;
            let (adapter, ranks) = match &adapter {
                Some(name) => {
                    let place = folder.join("adapter");
                    saving.write(&model, name, &place)?;
                    (Some(place), draw_ranks(&model, name, &folder.join("ranks.svg"))?)
                }
                None => (None, None),
            };
            let seconds = started.elapsed().as_secs_f64();
            let report =
                Report { steps, resumed_from, stopped_early, metrics, parameters, adapter, ranks, changed, seconds };
            Ok((model, report))
        });
        written.map_err(explained)
    }

    fn saving(&self) -> Saving {
        Saving { as_lora: self.training.save_as_lora, beside: Arc::clone(&self.beside) }
    }

    /// The checkpoints in the folder `dir`, and what they note of this run.
    fn checkpoints(&self, dir: &Path, max_steps: usize) -> Result<Checkpoints> {
        let mut contents = self.contents.clone();
        if let (Some(Train::Examples(examples)), false) = (&self.train, contents.contains_key("data")) {
            contents.insert("data".to_owned(), contents::of_examples(examples.iter())?);
        }
        if !self.valid.is_empty() && !contents.contains_key("valid") {
            contents.insert("valid".to_owned(), contents::of_examples(self.valid.iter())?);
        }
        let state = TrainerState {
            global_step: 0,
            seed: self.the_seed(),
            triplets: None,
            max_steps,
            contents,
            devices: self.devices.len().max(1),
        };
        let limit = self.training.save_total_limit;
        Ok(Checkpoints::new(dir.join("checkpoints"), limit, state).with_saving(self.saving()))
    }

    fn take_stream(&mut self) -> Result<Stream> {
        let training = &self.training;
        if let Some(Train::Examples(examples)) = &self.train {
            return Stream::new(
                examples.clone(),
                StreamConfig {
                    batch_size: training.per_device_train_batch_size,
                    accumulation: training.gradient_accumulation_steps.saturating_mul(self.devices.len().max(1)),
                    shuffle: self.shuffle.unwrap_or(true),
                    group_by_length: training.group_by_length,
                    packing: self.packing.is_some(),
                    max_length: self.packing.unwrap_or(usize::MAX),
                    pad_id: self.pad_id,
                    seed: self.the_seed(),
                },
            );
        }
        match self.train.take() {
            Some(Train::Stream(stream)) => {
                self.check_stream(&stream)?;
                Ok(stream)
            }
            _ => Err(StreamError::NoExamples.into()),
        }
    }

    /// Refuses options of rows that a stream has by itself, and that it has otherwise.
    fn check_stream(&self, stream: &Stream) -> Result<()> {
        let (mut problems, config) = (Problems::default(), stream.config());
        let mut refuse = |wrong: bool, option: &str, of_stream: &str| {
            if wrong {
                problems.push(format!("`{option}` beside `stream`, whose rows have an order and a packing already; set {of_stream} of StreamConfig"));
            }
        };
        refuse(self.shuffle.is_some(), "shuffle", "`shuffle`");
        refuse(self.packing.is_some(), "packing", "`packing` and `max_length`");
        refuse(self.training.group_by_length && !config.group_by_length, "group_by_length", "`group_by_length`");
        if let Some(seed) = self.seed.filter(|&seed| config.shuffle && seed != config.seed) {
            problems.push(format!(
                "`seed` is {seed}, and the stream's order comes of its own seed, {}; make the two agree",
                config.seed
            ));
        }
        if problems.is_empty() { Ok(()) } else { Err(LearnerError::Options(problems)) }
    }

    /// The seed of dropout, and of the order of rows.
    pub(super) fn the_seed(&self) -> u64 {
        self.seed.unwrap_or(42)
    }

    fn check(&mut self, stream: &Stream, total_steps: usize) -> Result<Found> {
        let mut problems = Problems::default();
        for (at, (name, _)) in self.callbacks.metrics.iter().enumerate() {
            if EvalReport::KEYS.contains(&name.as_str()) || self.callbacks.metrics[..at].iter().any(|(n, _)| n == name)
            {
                problems.push(format!("the metric `{name}` has the name of another; give it one of its own"));
            }
        }
        if let Some(sampler) = &self.sampler {
            sampler.check(&self.model, &mut problems);
        }
        if !self.callbacks.sample.is_empty() && self.sampler.is_none() {
            problems.push("samples of text are asked for, and there are no prompts; give some, or leave out what is told of samples");
        }
        if !problems.is_empty() {
            return Err(LearnerError::Options(problems));
        }
        let parts = Parts {
            adapter: self.adapter.as_deref(),
            training: &self.training,
            stream,
            total_steps,
            devices: &self.devices,
            own_strategy: self.strategy.is_none(),
            evaluates: !self.valid.is_empty(),
            asks_for_evaluations: !self.callbacks.evaluation.is_empty() || !self.callbacks.metrics.is_empty(),
        };
        checks::check(&mut self.model, &parts)
    }

    /// The settings of a run that a program begins.
    fn own_settings(&self) -> Result<toml::Table> {
        let problem = |message: String| LearnerError::ConfigSyntax { file: "config.toml".into(), message };
        let training = toml::Table::try_from(&self.training).map_err(|error| problem(error.to_string()))?;
        let seed = i64::try_from(self.the_seed()).map_err(|error| problem(format!("seed: {error}")))?;
        Ok(toml::Table::from_iter([("seed".to_owned(), seed.into()), ("training".to_owned(), training.into())]))
    }
}

/// AdaLoRA: draws the rank that each module kept.
fn draw_ranks<M: CausalModel>(model: &M, adapter: &str, path: &Path) -> Result<Option<PathBuf>> {
    if !model.adapter_config(adapter)?.prunes() {
        return Ok(None);
    }
    write_rank_plot(path, &kept_ranks(model, adapter)?)?;
    Ok(Some(path.to_owned()))
}
