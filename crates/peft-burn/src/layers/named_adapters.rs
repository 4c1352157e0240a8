//! The adapters of one layer, by name.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::error::{Result, Unsupported};
use crate::param::{ParamMut, ParamRef};

/// The parts of one adapter for one layer.
pub trait LayerAdapter: Module {
    /// Parameters by their names on disk, after the module's path.
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)>;

    /// As [`Self::params`], to write into.
    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)>;

    /// Called when the adapter becomes one that is trained.
    fn prepare_training(&mut self) {}

    /// The names of parameters that are never trained: what the adapter only brings.
    fn never_trained(&self) -> &'static [&'static str] {
        &[]
    }
}

/// Any number of named adapters, of which some are active and some are merged into the layer's base.
///
/// For a mixed batch every row has its own instead of the active ones.
#[derive(Module, Debug)]
pub struct NamedAdapters<A: LayerAdapter> {
    all: Vec<(String, A)>,
    active: Vec<String>,
    merged: Vec<String>,
    /// One name for each row of a batch; empty where the rows do not differ.
    by_row: Vec<String>,
}

/// The rows of an input that one adapter, or none, is for.
#[derive(Debug)]
pub(crate) struct RowGroup<'a, A> {
    pub(crate) adapter: Option<&'a A>,
    pub(crate) rows: Vec<i32>,
}

impl<A: LayerAdapter> NamedAdapters<A> {
    pub(crate) fn new() -> Self {
        Self { all: Vec::new(), active: Vec::new(), merged: Vec::new(), by_row: Vec::new() }
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

    /// The names that were made active, whether the layer has them or not.
    pub fn active_names(&self) -> &[String] {
        &self.active
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
        self.active.retain(|n| n != name);
        let at = self.all.iter().position(|(n, _)| n == name)?;
        Some(self.all.remove(at).1)
    }

    /// Sets which adapters take part, in this order; names that the layer lacks do nothing. Those of `trained` are trained
    /// and the others are frozen.
    pub fn set_active(&mut self, names: &[String], trained: &[String]) {
        self.active = names.to_vec();
        self.by_row.clear();
        for (name, adapter) in &mut self.all {
            let on = trained.contains(name);
            if on {
                adapter.prepare_training();
            }
            let never = adapter.never_trained();
            adapter.params_mut().iter_mut().for_each(|(name, p)| p.set_require_grad(on && !never.contains(name)));
        }
    }

    /// Gives each row of a batch an adapter of its own; a name that the layer lacks means none.
    pub(crate) fn set_by_row(&mut self, names: &[String]) {
        self.active.clear();
        self.by_row = names.to_vec();
    }

    /// Whether the rows of a batch differ in their adapters.
    pub(crate) fn is_by_row(&self) -> bool {
        !self.by_row.is_empty()
    }

    /// Which of `n` rows belong to which adapter, where they differ. `n` is a multiple of the batch: tokens of one text
    /// lie together.
    ///
    /// # Panics
    /// When the batch does not have as many texts as there are names.
    pub(crate) fn groups(&self, n: usize) -> Option<Vec<RowGroup<'_, A>>> {
        let texts = self.by_row.len();
        if texts == 0 {
            return None;
        }
        assert!(n.is_multiple_of(texts), "{texts} adapter names for a batch of another size: {n} rows in all");
        let mut groups: Vec<(Option<&str>, RowGroup<'_, A>)> = Vec::new();
        for (text, name) in self.by_row.iter().enumerate() {
            let adapter = self.get(name);
            let name = adapter.map(|_| name.as_str());
            let rows = (text * n / texts..(text + 1) * n / texts).map(|row| row as i32);
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, group)) => group.rows.extend(rows),
                None => groups.push((name, RowGroup { adapter, rows: rows.collect() })),
            }
        }
        Some(groups.into_iter().map(|(_, group)| group).collect())
    }

    pub(crate) fn set_merged(&mut self, names: &[String]) {
        self.merged = names.to_vec();
    }

    /// Refuses a merge on top of another.
    pub(crate) fn check_unmerged(&self) -> Result<()> {
        if self.merged.is_empty() {
            return Ok(());
        }
        Err(Unsupported::AlreadyMerged { adapters: self.merged.clone() }.into())
    }
}

/// The rows of `parts` as they were before the groups were taken out.
pub(crate) fn ungroup<A>(parts: Vec<Tensor<2>>, groups: &[RowGroup<'_, A>]) -> Tensor<2> {
    let mut place = vec![0_i32; groups.iter().map(|group| group.rows.len()).sum()];
    for (at, &row) in groups.iter().flat_map(|group| &group.rows).enumerate() {
        place[row as usize] = at as i32;
    }
    let all = Tensor::cat(parts, 0);
    let place = indices(place, &all.device());
    all.select(0, place)
}

/// `indices` on the device.
pub(crate) fn indices(indices: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let n = indices.len();
    Tensor::from_data(TensorData::new(indices, [n]), device)
}
