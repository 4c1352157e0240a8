//! Which adapters there are, and where each is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use llama_burn::Text;

use super::folder::Stamp;
use super::info::{AdapterInfo, State};
use super::resident::{Ready, Resident};
use crate::error::ServeError;

/// An adapter.
#[derive(Debug)]
pub(super) struct Entry {
    /// Below the folder.
    pub path: PathBuf,
    pub pinned: bool,
    pub generation: u64,
    /// The files of that generation.
    pub stamp: Option<Stamp>,
    pub resident: Option<Arc<Resident>>,
    /// The number of the load that is under way.
    pub loading: Option<u64>,
    /// The last load that failed, and why.
    pub failure: Option<(u64, ServeError)>,
    /// When it was last asked for.
    pub used: u64,
    pub peft_type: Option<String>,
    pub text: Option<Arc<Text>>,
}

impl Entry {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            pinned: false,
            generation: 0,
            stamp: None,
            resident: None,
            loading: None,
            failure: None,
            used: 0,
            peft_type: None,
            text: None,
        }
    }

    /// Puts a loaded adapter in its place. The same files as before are the same generation.
    pub fn put(&mut self, name: &Arc<str>, ready: Ready) {
        let Ready { pack, peft_type, charge, stamp } = ready;
        if self.stamp != Some(stamp) {
            self.generation += 1;
            self.text = None;
        }
        (self.stamp, self.peft_type) = (Some(stamp), Some(peft_type));
        self.resident = Some(Arc::new(Resident { name: Arc::clone(name), generation: self.generation, pack, charge }));
    }

    pub fn info(&self, name: &Arc<str>) -> AdapterInfo {
        AdapterInfo {
            name: Arc::clone(name),
            peft_type: self.peft_type.clone(),
            state: match (&self.resident, self.loading) {
                (Some(_), _) => State::Resident,
                (None, Some(_)) => State::Loading,
                (None, None) => State::Registered,
            },
            generation: self.generation,
            bytes: self.resident.as_ref().map_or(0, |resident| resident.num_bytes()),
            pinned: self.pinned,
            leases: self.resident.as_ref().map_or(0, |resident| Arc::strong_count(resident) - 1),
        }
    }
}

/// All adapters.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub entries: BTreeMap<Arc<str>, Entry>,
    /// Names that were unloaded: lying in the folder does not bring them back.
    pub removed: BTreeSet<Arc<str>>,
    /// Counts requests, for the order of use.
    pub tick: u64,
    /// Numbers loads.
    pub loads: u64,
}

impl Table {
    /// Registers what was `found` in the folder and forgets what is gone.
    pub fn refresh(&mut self, found: Vec<(String, PathBuf)>, base_name: &str) {
        let there: BTreeSet<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let stays = |entry: &Entry| entry.resident.is_some() || entry.loading.is_some() || entry.generation > 0;
        self.entries.retain(|name, entry| there.contains(&**name) || stays(entry));
        self.removed.retain(|name| !there.contains(&**name));
        for (name, path) in found.into_iter().filter(|(name, _)| name != base_name) {
            self.entries.entry(name.into()).or_insert_with(|| Entry::new(path));
        }
    }

    /// Puts the adapter out of memory that was not asked for the longest and that nobody uses; pinned ones only if `all`.
    /// `false` if there is none.
    pub fn evict(&mut self, all: bool) -> bool {
        let free = |entry: &Entry| {
            let unused = entry.resident.as_ref().is_some_and(|resident| Arc::strong_count(resident) == 1);
            unused && (all || !entry.pinned)
        };
        let oldest = self.entries.values_mut().filter(|entry| free(entry)).min_by_key(|entry| entry.used);
        oldest.is_some_and(|entry| entry.resident.take().is_some())
    }
}
