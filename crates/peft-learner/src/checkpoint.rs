//! Checkpoints from which a run goes on as if it had never stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use peft_burn::adalora::{held_triplets, shrink_to};
use peft_burn::{AdapterFiles, PeftConfig, PeftModel};
use serde::{Deserialize, Serialize};

use crate::error::{LearnerError, Result};
use crate::files::write_whole;
use crate::step::CausalLm;

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
    /// Devices that the run is spread over: the rows of a step follow from it. Absent for one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub devices: usize,
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
    /// Devices of the run.
    devices: usize,
}

impl Checkpoints {
    /// The checkpoints in `dir`, of which the newest `limit` are kept (0: all).
    pub fn new(dir: impl Into<PathBuf>, limit: usize) -> Self {
        Self { dir: dir.into(), limit, devices: 1 }
    }

    /// The same, of a run that is spread over so many devices.
    pub fn of_devices(self, devices: usize) -> Self {
        Self { devices, ..self }
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

    /// Removes what a run that was killed while writing left behind.
    pub fn clear_unfinished(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".part") {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Writes `step-N`: first under another name, then renamed as a whole, so that a run killed at any moment leaves
    /// only complete checkpoints. Then deletes those beyond the limit.
    ///
    /// # Errors
    /// A file that cannot be written, for example on a full disk; earlier checkpoints stay.
    pub fn save(
        &self,
        step: usize,
        seed: u64,
        model: &CausalLm,
        optim: &ModuleOptimizer,
        adapter: Option<&str>,
    ) -> Result<()> {
        let place = self.dir.join(format!("step-{step}"));
        let part = self.dir.join(format!(".step-{step}.part"));
        let result = self.write(&part, step, seed, model, optim, adapter).and_then(|()| {
            if place.exists() {
                std::fs::remove_dir_all(&place).map_err(LearnerError::io("replace", &place))?;
            }
            std::fs::rename(&part, &place).map_err(LearnerError::io("write", &place))
        });
        if result.is_err() {
            let _ = std::fs::remove_dir_all(&part);
            return result;
        }
        let all = self.list();
        let spare = if self.limit == 0 { 0 } else { all.len().saturating_sub(self.limit) };
        for (_, old) in &all[..spare] {
            std::fs::remove_dir_all(old).map_err(LearnerError::io("delete", old))?;
        }
        Ok(())
    }

    fn write(
        &self,
        part: &Path,
        step: usize,
        seed: u64,
        model: &CausalLm,
        optim: &ModuleOptimizer,
        adapter: Option<&str>,
    ) -> Result<()> {
        let _ = std::fs::remove_dir_all(part);
        std::fs::create_dir_all(part).map_err(LearnerError::io("create", part))?;
        let record = |path: &Path, result: std::result::Result<(), burn::store::RecordError>| {
            result.map_err(|e| LearnerError::Checkpoint { path: path.to_owned(), message: e.to_string() })
        };
        let path = part.join(MODEL);
        record(&path, model.valid().into_record().save(&path))?;
        let path = part.join(OPTIMIZER);
        record(&path, optim.to_record().save(&path))?;
        match adapter {
            Some(name) => model.model.save_adapter(name, &part.join("adapter"))?,
            None => model.model.save(part.join("model"), None)?,
        }
        for file in [MODEL, OPTIMIZER] {
            let path = part.join(file);
            std::fs::File::open(&path).and_then(|f| f.sync_all()).map_err(LearnerError::io("write", &path))?;
        }
        let triplets = match adapter {
            Some(name) if matches!(model.model.adapter_config(name)?, PeftConfig::AdaLora(_)) => {
                held_triplets(&model.model, name)?
            }
            _ => None,
        };
        let state = TrainerState { global_step: step, seed, triplets, devices: self.devices };
        let state = serde_json::to_vec_pretty(&state).unwrap_or_default();
        write_whole(part.join(STATE), &state)
    }

    /// Puts the newest checkpoint's values into `model` and `optim`, and says at which step it was made. `None` where
    /// there is no checkpoint.
    ///
    /// # Errors
    /// A checkpoint that is damaged, of another adapter, or of a run on another number of devices.
    pub fn restore(
        &self,
        model: CausalLm,
        optim: ModuleOptimizer,
        adapter: Option<&str>,
    ) -> Result<Option<(CausalLm, ModuleOptimizer, TrainerState)>> {
        let Some(dir) = self.latest() else { return Ok(None) };
        let broken = |file: &str, message: String| LearnerError::Checkpoint { path: dir.join(file), message };
        let text = std::fs::read(dir.join(STATE)).map_err(LearnerError::io("read", dir.join(STATE)))?;
        let state: TrainerState = serde_json::from_slice(&text).map_err(|e| broken(STATE, e.to_string()))?;
        if state.devices != self.devices {
            return Err(LearnerError::DevicesChanged { were: state.devices, are: self.devices });
        }
        let record = ModuleRecord::load(dir.join(MODEL)).map_err(|e| broken(MODEL, e.to_string()))?;
        let mut model = model;
        if let (Some(name), Some(triplets)) = (adapter, &state.triplets) {
            shrink_to(&mut model.model, name, triplets).map_err(|e| broken(STATE, e.to_string()))?;
        }
        model = model.try_load_record(record).map_err(|e| broken(MODEL, e.to_string()))?;
        let record = OptimizerRecord::load(dir.join(OPTIMIZER)).map_err(|e| broken(OPTIMIZER, e.to_string()))?;
        Ok(Some((model, optim.load_record(record), state)))
    }
}
