//! The adapters of one layer, by name.

use burn::module::Module;

use crate::error::{PeftError, Result};
use crate::param::{ParamMut, ParamRef};

/// What one adapter holds for one layer.
pub trait LayerAdapter: Module {
    /// Parameters by their names on disk, after the module's path.
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)>;

    /// As [`Self::params`], to write into.
    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)>;

    /// Called when the adapter becomes one that is trained.
    fn prepare_training(&mut self) {}
}

/// Any number of named adapters, of which some are active and some are merged into the layer's base.
#[derive(Module, Debug)]
pub struct NamedAdapters<A: LayerAdapter> {
    all: Vec<(String, A)>,
    active: Vec<String>,
    merged: Vec<String>,
}

impl<A: LayerAdapter> NamedAdapters<A> {
    pub(crate) fn new() -> Self {
        Self { all: Vec::new(), active: Vec::new(), merged: Vec::new() }
    }

    /// All of them by name, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &A)> {
        self.all.iter().map(|(name, adapter)| (name.as_str(), adapter))
    }

    /// As [`Self::iter`], to write into.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut A)> {
        self.all.iter_mut().map(|(name, adapter)| (name.as_str(), adapter))
    }

    /// The adapter `name`, if this layer has it.
    pub fn get(&self, name: &str) -> Option<&A> {
        self.iter().find(|(n, _)| *n == name).map(|(_, adapter)| adapter)
    }

    /// As [`Self::get`], to write into.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut A> {
        self.iter_mut().find(|(n, _)| *n == name).map(|(_, adapter)| adapter)
    }

    /// Those that take part in the forward pass: active and not merged, in the order of activation.
    pub fn active(&self) -> impl Iterator<Item = &A> {
        self.active.iter().filter(|name| !self.merged.contains(name)).filter_map(|name| self.get(name))
    }

    /// The names folded into the base at present.
    pub fn merged(&self) -> &[String] {
        &self.merged
    }

    /// Puts an adapter on the layer, in the place of one of that name.
    pub fn insert(&mut self, name: &str, adapter: A) {
        self.remove(name);
        self.all.push((name.to_owned(), adapter));
    }

    /// Takes the adapter `name` off. The layer must be unmerged first.
    pub fn remove(&mut self, name: &str) -> Option<A> {
        let at = self.all.iter().position(|(n, _)| n == name)?;
        self.active.retain(|n| n != name);
        Some(self.all.remove(at).1)
    }

    /// Sets which adapters take part, in this order; names that the layer lacks do nothing. Active adapters are
    /// trainable and the others are frozen.
    pub fn set_active(&mut self, names: &[String], trainable: bool) {
        self.active = names.to_vec();
        for (name, adapter) in &mut self.all {
            let on = trainable && names.contains(name);
            if on {
                adapter.prepare_training();
            }
            adapter.params_mut().iter_mut().for_each(|(_, p)| p.set_require_grad(on));
        }
    }

    pub(crate) fn set_merged(&mut self, names: &[String]) {
        self.merged = names.to_vec();
    }

    /// Refuses a merge on top of another.
    pub(crate) fn check_unmerged(&self) -> Result<()> {
        if self.merged.is_empty() {
            return Ok(());
        }
        Err(PeftError::Unsupported(format!("{} merged already: unmerge first", self.merged.join(", "))))
    }
}
