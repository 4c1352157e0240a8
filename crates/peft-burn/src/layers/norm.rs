//! The vector of a norm, of which adapters may train copies (PEFT's `modules_to_save`).

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};

use super::frozen::Frozen;
use super::named_adapters::{LayerAdapter, NamedAdapters};
use super::trained_rows;
use crate::error::Result;
use crate::param::{ParamMut, ParamRef};

/// The part of one adapter for one norm: a trained copy.
#[derive(Module, Debug)]
pub struct NormAdapter {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Whether it is only used, and not trained: it was saved beside the adapter.
    pub frozen: bool,
}

impl NormAdapter {
    /// A trained copy of `weight`.
    pub fn copy_of(weight: &Tensor<1>) -> Self {
        Self { weight: Param::from_tensor(weight.clone().detach().cast(DType::F32)), frozen: false }
    }
}

impl LayerAdapter for NormAdapter {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        vec![("weight", ParamRef::from(&self.weight))]
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        vec![("weight", ParamMut::from(&mut self.weight))]
    }

    fn never_trained(&self) -> &'static [&'static str] {
        trained_rows::never_trained(false, self.frozen)
    }
}

/// The frozen vector that a norm multiplies by, with any number of named adapters, of which some are active.
#[derive(Module, Debug)]
pub struct PeftNorm {
    base: Frozen<Param<Tensor<1>>>,
    adapters: NamedAdapters<NormAdapter>,
    unmerged: Option<Tensor<1>>,
}

impl PeftNorm {
    /// A vector (`[width]`) without adapters. It is frozen.
    pub fn new(weight: Tensor<1>) -> Self {
        let base = Frozen::new(Param::from_tensor(weight).set_require_grad(false));
        Self { base, adapters: NamedAdapters::new(), unmerged: None }
    }

    /// The base's vector, with what is merged into it.
    pub fn base(&self) -> &Param<Tensor<1>> {
        &self.base
    }

    /// Makes the base trainable and visible to the optimiser, or frozen and hidden.
    pub fn set_base_trainable(&mut self, trainable: bool) {
        self.base.set_trainable(trainable);
    }

    /// The vector to multiply by: an active adapter's copy, or the base's.
    pub fn value(&self) -> Tensor<1> {
        self.adapters.active().next().map_or_else(|| self.base.val(), |adapter| adapter.weight.val())
    }

    /// The adapters by name.
    pub fn adapters(&self) -> &NamedAdapters<NormAdapter> {
        &self.adapters
    }

    /// As [`Self::adapters`], to write into.
    pub fn adapters_mut(&mut self) -> &mut NamedAdapters<NormAdapter> {
        &mut self.adapters
    }

    /// The base's vector before any merge.
    pub(crate) fn original(&self) -> Tensor<1> {
        self.unmerged.clone().unwrap_or_else(|| self.base.val())
    }

    /// The vector that the base would be with the adapters `names` folded in. `None` when none of them touches it.
    pub(crate) fn merged_value(&self, names: &[String]) -> Option<Tensor<1>> {
        let adapter = names.iter().find_map(|name| self.adapters.get(name))?;
        Some(adapter.weight.val().detach().cast(self.base.val().dtype()))
    }

    /// Puts the copy of one of the adapters `names` in the base's place; [`Self::unmerge`] gives the base back to the bit.
    ///
    /// # Errors
    /// When the norm is merged already.
    pub fn merge(&mut self, names: &[String]) -> Result<()> {
        self.adapters.check_unmerged()?;
        if let Some(weight) = self.merged_value(names) {
            self.unmerged = Some(self.base.replace(weight));
        }
        self.adapters.set_merged(names);
        Ok(())
    }

    /// Undoes [`Self::merge`].
    pub fn unmerge(&mut self) {
        self.adapters.set_merged(&[]);
        if let Some(weight) = self.unmerged.take() {
            self.base.replace(weight);
        }
    }

    /// Forgets the values from before the merge and every adapter: what is merged stays.
    pub fn keep_merged(&mut self) {
        self.unmerged = None;
        self.adapters = NamedAdapters::new();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn an_active_copy_stands_in_for_the_base_and_a_merge_is_undone_to_the_bit() {
        let ones = Tensor::<1>::ones([3], &Device::flex());
        let mut norm = PeftNorm::new(ones.clone());
        norm.adapters_mut().insert("a", NormAdapter::copy_of(&ones.clone().mul_scalar(2.0)));
        let value = |norm: &PeftNorm| norm.value().into_data().iter::<f32>().collect::<Vec<_>>();
        assert_eq!(value(&norm), [1.0; 3]);
        let names = ["a".to_owned()];
        norm.adapters_mut().set_active(&names, &names);
        assert_eq!(value(&norm), [2.0; 3]);
        norm.merge(&names).unwrap();
        assert_eq!((value(&norm), norm.base().val().sum().into_scalar::<f32>()), (vec![2.0; 3], 6.0));
        assert!(norm.merge(&names).is_err());
        norm.unmerge();
        assert_eq!(norm.base().val().sum().into_scalar::<f32>(), 3.0);
    }
}
