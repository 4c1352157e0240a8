//! Checkpoints from which a run goes on as if it had never stopped.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use llama_burn::CausalModel;
use peft_burn::adalora::{held_triplets, shrink_to};
use peft_burn::{AdapterFiles, PeftModel};
use serde::{Deserialize, Serialize};

use crate::error::{LearnerError, Result, ResumeError};
use crate::whole_file::write_whole;

/// Everything trained and the optimiser's averages, in Burn's record format: exact, with the parameters' identities.
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
/// Written last: a checkpoint without it is none.
const STATE: &str = "trainer_state.json";

/// Where a run stands. Row order, learning rate and dropout follow from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimiser steps done.
    pub global_step: usize,
    /// The run's seed.
    pub seed: u64,
    /// The triplets that AdaLoRA still has in memory, by `<path>.lora_E`; absent while it has all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triplets: Option<BTreeMap<String, Vec<bool>>>,
    /// Optimiser steps that the run was to have; 0 where that was not noted.
    #[serde(default)]
    pub max_steps: usize,
    /// Digests of what the run is made of: `data`, `valid`, `base`, `tokenizer`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contents: BTreeMap<String, String>,
    /// Devices that the run is spread over: the rows of a step follow from it. Absent for one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub devices: usize,
}

impl TrainerState {
    /// Checks that a run with the state `now` can go on from here.
    ///
    /// # Errors
    /// Another number of devices, other contents, and fewer steps than are done.
    pub(crate) fn check(&self, now: &Self, adalora: bool) -> Result<()> {
        if self.devices != now.devices {
            return Err(ResumeError::DevicesChanged { were: self.devices, are: now.devices }.into());
        }
        let mut changed: Vec<String> = Vec::new();
        for (what, digest) in &now.contents {
            if self.contents.get(what).is_some_and(|before| before != digest) {
                changed.push(what.clone());
            }
        }
        if !changed.is_empty() {
            return Err(ResumeError::ContentsChanged { changed }.into());
        }
        if self.global_step > now.max_steps {
            return Err(ResumeError::BeyondTheEnd { done: self.global_step, total_steps: now.max_steps }.into());
        }
        // Budget and masks are laid over the whole run: under another length the steps made would have been others.
        if adalora && self.max_steps > 0 && self.max_steps != now.max_steps {
            return Err(ResumeError::PhasesMoved { were: self.max_steps, are: now.max_steps }.into());
        }
        Ok(())
    }
}

fn one() -> usize {
    1
}

fn is_one(devices: &usize) -> bool {
    *devices == 1
}

/// The `checkpoints` folder of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    /// How many are kept.
    limit: usize,
    saving: Saving,
    /// The notes that are written beside the step.
    state: TrainerState,
}

impl Checkpoints {
    /// The checkpoints in `dir`, of which the newest `limit` are kept (0: all). A run that goes on from one of them must have
    /// `state` in common with it, but for the step.
    pub fn new(dir: impl Into<PathBuf>, limit: usize, state: TrainerState) -> Self {
        Self { dir: dir.into(), limit, saving: Saving::default(), state }
    }

    /// With adapters that are written so. A run goes on from the records beside them, whichever way that is.
    pub(crate) fn with_saving(self, saving: Saving) -> Self {
        Self { saving, ..self }
    }

    /// The notes of every checkpoint about the run, but for its step.
    pub(crate) fn state(&self) -> &TrainerState {
        &self.state
    }

    /// Complete checkpoints with their steps, oldest first. Half-written ones are not among them.
    pub fn list(&self) -> Vec<(usize, PathBuf)> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut all: Vec<_> = entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let step = name.to_str()?.strip_prefix("step-")?.parse().ok()?;
                entry.path().join(STATE).exists().then(|| (step, entry.path()))
            })
            .collect();
        all.sort();
        all
    }

    /// The newest complete checkpoint.
    pub fn latest(&self) -> Option<PathBuf> {
        self.list().pop().map(|(_, path)| path)
    }

    /// The notes of the newest complete checkpoint about its run; `None` where there is no checkpoint.
    ///
    /// # Errors
    /// A checkpoint that is damaged.
    pub fn latest_state(&self) -> Result<Option<TrainerState>> {
        self.latest().map(|dir| read_state(&dir)).transpose()
    }

    /// Removes what a run that was killed while writing left behind.
    pub fn clear_unfinished(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".part") {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Writes `step-N`: first under another name, then renamed as a whole, so that a run killed at any moment leaves
    /// only complete checkpoints. Then deletes those beyond the limit. Returns the checkpoint's folder.
    ///
    /// # Errors
    /// A file that cannot be written, for example on a full disk; earlier checkpoints stay.
    pub(crate) fn save<M: CausalModel>(
        &self,
        step: usize,
        model: &M,
        optim: &ModuleOptimizer,
        adapter: Option<&str>,
    ) -> Result<PathBuf> {
        let place = self.dir.join(format!("step-{step}"));
        let part = self.dir.join(format!(".step-{step}.part"));
        let result = self.write(&part, step, model, optim, adapter).and_then(|()| {
            if place.exists() {
                std::fs::remove_dir_all(&place).map_err(LearnerError::io("replace", &place))?;
            }
            std::fs::rename(&part, &place).map_err(LearnerError::io("write", &place))
        });
        if let Err(error) = result {
            let _ = std::fs::remove_dir_all(&part);
            return Err(error);
        }
        let all = self.list();
        let spare = if self.limit == 0 { 0 } else { all.len().saturating_sub(self.limit) };
        for (_, old) in &all[..spare] {
            std::fs::remove_dir_all(old).map_err(LearnerError::io("delete", old))?;
        }
        Ok(place)
    }

    fn write<M: CausalModel>(
        &self,
        part: &Path,
        step: usize,
        model: &M,
        optim: &ModuleOptimizer,
        adapter: Option<&str>,
    ) -> Result<()> {
        let _ = std::fs::remove_dir_all(part);
        std::fs::create_dir_all(part).map_err(LearnerError::io("create", part))?;
        let record = |path: &Path, result: std::result::Result<(), burn::store::RecordError>| {
            result.map_err(|source| LearnerError::Checkpoint { path: path.to_owned(), source: source.into() })
        };
        let path = part.join(MODEL);
        record(&path, model.valid().into_record().save(&path))?;
        let path = part.join(OPTIMIZER);
        record(&path, optim.to_record().save(&path))?;
        if let Some(name) = adapter {
            self.saving.write(model, name, &part.join("adapter"))?;
        }
        for file in [MODEL, OPTIMIZER] {
            let path = part.join(file);
            std::fs::File::open(&path).and_then(|f| f.sync_all()).map_err(LearnerError::io("write", &path))?;
        }
        let triplets = match adapter {
            Some(name) if model.adapter_config(name)?.prunes() => held_triplets(model, name)?,
            _ => None,
        };
        let state = TrainerState { global_step: step, triplets, ..self.state.clone() };
        let state = serde_json::to_vec_pretty(&state).unwrap_or_default();
        write_whole(part.join(STATE), &state)
    }

    /// Puts the newest checkpoint's values into `model` and `optim`, and says at which step it was made. `None` where
    /// there is no checkpoint.
    ///
    /// # Errors
    /// A checkpoint that is damaged, or of another adapter.
    pub(crate) fn restore<M: CausalModel>(
        &self,
        model: M,
        optim: ModuleOptimizer,
        adapter: Option<&str>,
    ) -> Result<Option<(M, ModuleOptimizer, TrainerState)>> {
        let Some(dir) = self.latest() else { return Ok(None) };
        fn broken<E: Into<Box<dyn Error + Send + Sync>>>(path: PathBuf) -> impl FnOnce(E) -> LearnerError {
            |error| LearnerError::Checkpoint { path, source: error.into() }
        }
        let state = read_state(&dir)?;
        let record = ModuleRecord::load(dir.join(MODEL)).map_err(broken(dir.join(MODEL)))?;
        let mut model = model;
        if let (Some(name), Some(triplets)) = (adapter, &state.triplets) {
            shrink_to(&mut model, name, triplets).map_err(broken(dir.join(STATE)))?;
        }
        model = model.try_load_record(record).map_err(broken(dir.join(MODEL)))?;
        let record = OptimizerRecord::load(dir.join(OPTIMIZER)).map_err(broken(dir.join(OPTIMIZER)))?;
        Ok(Some((model, optim.load_record(record), state)))
    }
}

/// How adapters are saved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saving {
    /// An adapter that keeps a part of the base becomes plain LoRA.
    pub as_lora: bool,
    /// Files that are written beside each of them, by name.
    pub beside: Arc<BTreeMap<String, Vec<u8>>>,
}

impl Saving {
    /// Writes the adapter `name` to `dir`.
    pub fn write<M: CausalModel>(&self, model: &M, name: &str, dir: &Path) -> Result<()> {
        let saved = if self.as_lora { model.save_adapter_as_lora(name, dir) } else { model.save_adapter(name, dir) };
        saved?;
        self.beside.iter().try_for_each(|(file, content)| write_whole(dir.join(file), content))
    }
}

fn read_state(dir: &Path) -> Result<TrainerState> {
    let path = dir.join(STATE);
    let text = std::fs::read(&path).map_err(LearnerError::io("read", &path))?;
    serde_json::from_slice(&text).map_err(|error| LearnerError::Checkpoint { path, source: error.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn state(step: usize, max_steps: usize, data: &str) -> TrainerState {
        let contents = BTreeMap::from([("data".to_owned(), data.to_owned())]);
        TrainerState { global_step: step, seed: 1, triplets: None, max_steps, contents, devices: 1 }
    }

    #[test]
    fn a_run_goes_on_with_the_same_contents_and_perhaps_for_longer() {
        let before = state(4, 8, "a");
        before.check(&state(0, 8, "a"), true).unwrap();
        before.check(&state(0, 12, "a"), false).unwrap();
        let refused = |now, adalora| before.check(&now, adalora).unwrap_err().to_string();
        assert!(refused(state(0, 12, "a"), true).contains("8 steps"), "AdaLoRA's phases would move");
        assert!(refused(state(0, 3, "a"), false).contains("step 4"));
        assert!(refused(state(0, 8, "b"), false).contains("data"));
    }

    #[test]
    fn a_state_of_an_older_release_is_read() {
        let old: TrainerState = serde_json::from_str(r#"{"global_step": 4, "seed": 1}"#).unwrap();
        assert_eq!((old.max_steps, old.devices, old.contents.len()), (0, 1, 0));
        old.check(&state(0, 12, "a"), true).unwrap();
    }
}
