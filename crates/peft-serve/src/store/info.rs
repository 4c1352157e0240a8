//! Questions to the store, and its answers.

use std::sync::Arc;

use super::resident::Resident;
use crate::error::ServeError;

/// How an adapter is to be loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Take the place of an adapter of that name, which requests that run keep.
    pub in_place: bool,
    /// Never put it out of memory to make room.
    pub pinned: bool,
    /// Replace only this generation.
    pub expected_generation: Option<u64>,
}

/// How far an adapter has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Its name is known.
    Registered,
    /// It is being loaded.
    Loading,
    /// It is in memory.
    Resident,
}

impl State {
    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Loading => "loading",
            Self::Resident => "resident",
        }
    }
}

/// An adapter of the store: where it comes from, and whether it is in memory.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The method, as PEFT's files name it; `None` where its configuration cannot be read.
    pub peft_type: Option<String>,
    /// How far it has been loaded.
    pub state: State,
    /// How often it was replaced, from 1 on; 0 before it was loaded.
    pub generation: u64,
    /// Bytes in memory.
    pub bytes: usize,
    /// Whether it stays in memory.
    pub pinned: bool,
    /// How many requests use it.
    pub leases: usize,
}

/// The store's answer to the question for an adapter.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreUse {
    /// It is in memory.
    Ready(Arc<Resident>),
    /// It is being loaded, by the load of this number: ask again with it.
    Loading(u64),
    /// It cannot be loaded.
    Failed(ServeError),
}
