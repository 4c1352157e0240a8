//! An adapter in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use peft_burn::AdapterPack;

use super::folder::Stamp;

/// Bytes that are spoken for until it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Charge {
    pub fn new(total: &Arc<AtomicUsize>, bytes: usize) -> Self {
        total.fetch_add(bytes, Ordering::Relaxed);
        Self { total: Arc::clone(total), bytes }
    }

    pub fn set(&mut self, bytes: usize) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An adapter in memory, of one generation. Whoever holds it keeps it there.
#[derive(Debug)]
pub struct Resident {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
    pub(super) pack: Arc<AdapterPack>,
    pub(super) charge: Charge,
}

impl Resident {
    /// The adapter's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How often the adapter of this name was replaced, from 1 on.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The adapter's tensors.
    pub fn pack(&self) -> &Arc<AdapterPack> {
        &self.pack
    }

    /// Bytes that it takes.
    pub fn num_bytes(&self) -> usize {
        self.charge.bytes
    }
}

/// A pack with its memory.
pub(super) struct Ready {
    pub pack: Arc<AdapterPack>,
    pub peft_type: String,
    pub charge: Charge,
    pub stamp: Stamp,
}
