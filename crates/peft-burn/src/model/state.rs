//! A model's notes about its adapters beside their tensors.

use std::collections::BTreeMap;

use crate::error::{PeftError, Result};
use crate::methods::PeftConfig;

/// The adapters of a model, apart from their tensors.
#[derive(Clone, Debug, Default)]
pub struct PeftState {
    pub(super) adapters: BTreeMap<String, AdapterState>,
    pub(super) active: Vec<String>,
    pub(super) disabled: bool,
    pub(super) merged: Vec<String>,
    pub(super) by_row: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct AdapterState {
    pub(super) config: PeftConfig,
    pub(super) adapted: Vec<String>,
    pub(super) saved: Vec<String>,
    /// Not trained while active either.
    pub(super) frozen: bool,
}

impl PeftState {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.adapters.contains_key(name)
    }

    /// Whether `name` is trained while it is active.
    pub(crate) fn is_trainable(&self, name: &str) -> bool {
        self.adapters.get(name).is_some_and(|adapter| !adapter.frozen)
    }

    pub(crate) fn set_config(&mut self, name: &str, config: PeftConfig) {
        if let Some(adapter) = self.adapters.get_mut(name) {
            adapter.config = config;
        }
    }
}

pub(super) fn check_known(name: &str, state: &PeftState) -> Result<()> {
    if state.adapters.contains_key(name) { Ok(()) } else { Err(unknown(name, state)) }
}

pub(super) fn unknown(name: &str, state: &PeftState) -> PeftError {
    PeftError::UnknownAdapter { name: name.into(), available: state.adapters.keys().cloned().collect() }
}
