//! An embedding that takes adapters.

use burn::module::{Module, Param};
use burn::nn::Embedding;
use burn::tensor::{DType, Int, Tensor};
use fused_burn::Weight;

use super::base_param::BaseParam;
use super::frozen::Frozen;
use super::named_adapters::{LayerAdapter, NamedAdapters, RowGroup, indices, ungroup};
use super::trained_rows::{self, TRAINED_ROWS, TrainableTokens, own_name};
use crate::error::Result;
use crate::methods::EmbeddingLora;
use crate::param::{ParamMut, ParamRef};

/// The parts of one adapter for one embedding.
#[derive(Module, Debug)]
pub struct EmbeddingAdapter {
    /// A low-rank update.
    pub lora: Option<EmbeddingLora>,
    /// Trained rows.
    pub tokens: Option<TrainableTokens>,
    /// A copy of the whole matrix: trained (`modules_to_save`); beside trained rows the matrix whose rows they are in the place of,
    /// which is frozen (of a resized vocabulary).
    pub weight: Option<Param<Tensor<2>>>,
    /// Whether all of it is the tied head's too (PEFT's `ensure_weight_tying`). Trained rows always are.
    pub tied: bool,
    /// Whether the matrix is only used, and not trained: it was saved beside the adapter.
    pub frozen: bool,
}

impl EmbeddingAdapter {
    /// An adapter of low rank.
    pub fn lora(lora: EmbeddingLora) -> Self {
        Self { lora: Some(lora), tokens: None, weight: None, tied: false, frozen: false }
    }

    /// A trained copy of the whole matrix.
    pub fn copy_of(weight: &Tensor<2>) -> Self {
        let weight = Some(Param::from_tensor(weight.clone().detach().cast(DType::F32)));
        Self { lora: None, tokens: None, weight, tied: false, frozen: false }
    }

    /// The matrix (f32) that `weight` (f32) becomes under this adapter; `base` is the one before any merge.
    fn fold(&self, weight: Tensor<2>, base: &Weight) -> Tensor<2> {
        let mut weight = self.weight.as_ref().map_or(weight, |w| w.val().cast(DType::F32));
        if let Some(lora) = &self.lora {
            weight = lora.merge(weight, base);
        }
        match &self.tokens {
            Some(tokens) => tokens.put_into(weight),
            None => weight,
        }
    }
}

impl LayerAdapter for EmbeddingAdapter {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        let mut all = self.lora.as_ref().map(EmbeddingLora::params).unwrap_or_default();
        all.extend(self.tokens.iter().map(|t| (TRAINED_ROWS, ParamRef::from(&t.rows))));
        let name = own_name(self.tokens.is_some());
        all.extend(self.weight.iter().map(|w| (name, ParamRef::from(w))));
        all
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let name = own_name(self.tokens.is_some());
        let mut all = self.lora.as_mut().map(EmbeddingLora::params_mut).unwrap_or_default();
        all.extend(self.tokens.iter_mut().map(|t| (TRAINED_ROWS, ParamMut::from(&mut t.rows))));
        all.extend(self.weight.iter_mut().map(|w| (name, ParamMut::from(w))));
        all
    }

    fn never_trained(&self) -> &'static [&'static str] {
        trained_rows::never_trained(self.tokens.is_some(), self.frozen)
    }
}

/// A frozen embedding with any number of named adapters, of which some are active.
#[derive(Module, Debug)]
pub struct PeftEmbedding {
    base: Frozen<BaseParam>,
    adapters: NamedAdapters<EmbeddingAdapter>,
    unmerged: Option<Frozen<BaseParam>>,
    slot: usize,
}

impl PeftEmbedding {
    /// An embedding (`[vocab, hidden]`) without adapters. It is frozen.
    pub fn new(weight: impl Into<Weight>) -> Self {
        Self { base: Frozen::new(BaseParam::new(weight)), adapters: NamedAdapters::new(), unmerged: None, slot: 0 }
    }

    /// The embedding with a number of its own in its model, by which served adapters ([`AdapterPack`](crate::AdapterPack)) know
    /// it.
    #[must_use]
    pub fn with_slot(self, slot: usize) -> Self {
        Self { slot, ..self }
    }

    /// The embedding's number in its model; 0 unless [`Self::with_slot`] gave it one.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// `[vocab, hidden]` sizes.
    pub fn dims(&self) -> [usize; 2] {
        self.base.val().dims()
    }

    /// How many tokens there are: rows of the matrix that is looked up, which an active adapter may bring.
    pub fn num_tokens(&self) -> usize {
        let own = self.adapters.active().find_map(|adapter| adapter.weight.as_ref());
        own.map_or_else(|| self.base.val().dims()[0], |own| own.val().dims()[0])
    }

    /// The base's matrix (with what is merged into it).
    pub fn base(&self) -> &BaseParam {
        &self.base
    }

    /// The base, to load into.
    pub fn base_mut(&mut self) -> &mut BaseParam {
        self.adapters.iter_mut().filter_map(|(_, a)| a.lora.as_mut()).for_each(EmbeddingLora::forget_base);
        self.base.inner_mut()
    }

    /// Makes the base trainable and visible to the optimiser, or frozen and hidden.
    pub fn set_base_trainable(&mut self, trainable: bool) {
        self.base.thaw(trainable);
        self.base.inner_mut().set_trainable(trainable);
    }

    /// The rows of `ids` (`[n]`): `[n, hidden]`.
    pub fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let Some(groups) = self.adapters.groups(ids.dims()[0]) else {
            return self.forward_active(ids, &self.adapters.active().collect::<Vec<_>>());
        };
        let part = |group: &RowGroup<'_, EmbeddingAdapter>| {
            let ids = ids.clone().select(0, indices(group.rows.clone(), &ids.device()));
            self.forward_active(ids, group.adapter.as_slice())
        };
        ungroup(groups.iter().map(part).collect(), &groups)
    }

    pub(crate) fn forward_active(&self, ids: Tensor<1, Int>, active: &[&EmbeddingAdapter]) -> Tensor<2> {
        let own = active.iter().find_map(|a| a.weight.as_ref()).map(|own| Weight::Dense(own.val()));
        let weight = own.unwrap_or_else(|| self.base.val());
        let mut y = weight.select(ids.clone());
        for adapter in active {
            if let Some(lora) = &adapter.lora {
                y = lora.apply(y, ids.clone(), &self.original());
            }
            if let Some(tokens) = &adapter.tokens {
                y = tokens.put_into_rows_of(y, &ids);
            }
        }
        y
    }

    /// The base's matrix before any merge.
    pub(crate) fn original(&self) -> Weight {
        self.unmerged.as_ref().unwrap_or(&self.base).val()
    }

    /// The matrix that a head tied to this embedding multiplies by: the base's (or the one that trained rows bring), with trained
    /// rows in their place, and with all that a tied adapter has.
    pub fn tied_weight(&self) -> Weight {
        let mut shared = self.adapters.active().filter(|a| a.tied || a.tokens.is_some()).peekable();
        if shared.peek().is_none() {
            return self.base.val();
        }
        let tied = shared.fold(self.base.val().dense(), |w, adapter| {
            let dtype = w.dtype();
            if adapter.tied {
                return adapter.fold(w.cast(DType::F32), &self.original()).cast(dtype);
            }
            let w = adapter.weight.as_ref().map_or(w, Param::val).cast(DType::F32);
            adapter.tokens.as_ref().map_or(w.clone(), |tokens| tokens.put_into(w)).cast(dtype)
        });
        tied.into()
    }

    /// The adapters by name.
    pub fn adapters(&self) -> &NamedAdapters<EmbeddingAdapter> {
        &self.adapters
    }

    /// As [`Self::adapters`], to write into.
    pub fn adapters_mut(&mut self) -> &mut NamedAdapters<EmbeddingAdapter> {
        &mut self.adapters
    }

    /// The matrix that the base would be with the adapters `names` folded in, in the base's dtype. `None` when none of
    /// them touches this embedding.
    pub fn merged_value(&self, names: &[String]) -> Option<Tensor<2>> {
        let found: Vec<_> = names.iter().filter_map(|n| self.adapters.get(n)).collect();
        if found.is_empty() {
            return None;
        }
        let base = self.base.val().dense().detach();
        let (dtype, original) = (base.dtype(), self.original());
        Some(found.iter().fold(base.cast(DType::F32), |w, a| a.fold(w, &original).detach()).cast(dtype))
    }

    /// Folds the adapters `names` into the base; [`Self::unmerge`] gives the base back to the bit.
    ///
    /// # Errors
    /// When the embedding is merged already.
    pub fn merge(&mut self, names: &[String]) -> Result<()> {
        self.adapters.check_unmerged()?;
        if let Some(weight) = self.merged_value(names) {
            self.unmerged = Some(Frozen::new((*self.base).clone()));
            self.base.inner_mut().set(weight);
        }
        self.adapters.set_merged(names);
        Ok(())
    }

    /// Undoes [`Self::merge`].
    pub fn unmerge(&mut self) {
        self.adapters.set_merged(&[]);
        if let Some(weight) = self.unmerged.take() {
            self.base.inner_mut().set(weight.val());
        }
    }

    /// Forgets the values from before the merge and every adapter: what is merged stays.
    pub fn keep_merged(&mut self) {
        self.unmerged = None;
        self.adapters = NamedAdapters::new();
    }
}

impl From<Embedding> for PeftEmbedding {
    /// The embedding frozen, with the same values.
    fn from(embedding: Embedding) -> Self {
        Self::new(embedding.weight.val().detach())
    }
}
