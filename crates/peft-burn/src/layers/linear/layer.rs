//! The layer: a frozen base and adapters by name.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use fused_burn::Weight;

use super::adapter::LinearAdapter;
use super::projection::Projection;
use crate::layers::base_param::BaseParam;
use crate::layers::frozen::Frozen;
use crate::layers::named_adapters::NamedAdapters;
use crate::methods::Method;

/// The base's values from before a merge, kept so that unmerging gives them back to the bit.
#[derive(Module, Debug)]
pub(super) struct Unmerged {
    pub weight: Frozen<BaseParam>,
    pub bias: Option<Tensor<1>>,
    pub had_bias: bool,
}

/// A frozen linear layer with any number of named adapters, of which some are active.
#[derive(Module, Debug)]
pub struct PeftLinear {
    pub(super) base: Frozen<Projection>,
    pub(super) adapters: NamedAdapters<LinearAdapter>,
    pub(super) unmerged: Option<Unmerged>,
    slot: usize,
}

impl PeftLinear {
    /// A layer without adapters. Its parameters are frozen.
    pub fn new(weight: impl Into<Weight>, bias: Option<Tensor<1>>) -> Self {
        let weight = BaseParam::new(weight);
        let bias = bias.map(|b| Param::from_tensor(b).set_require_grad(false));
        let base = Frozen::new(Projection { weight, bias });
        Self { base, adapters: NamedAdapters::new(), unmerged: None, slot: 0 }
    }

    /// The layer with a number of its own in its model, by which served adapters ([`AdapterPack`](crate::AdapterPack)) know it.
    #[must_use]
    pub fn with_slot(self, slot: usize) -> Self {
        Self { slot, ..self }
    }

    /// The layer's number in its model; 0 unless [`Self::with_slot`] gave it one.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// `[in, out]` sizes.
    pub fn dims(&self) -> [usize; 2] {
        let [out, inp] = self.base.weight.val().dims();
        [inp, out]
    }

    /// The base's weight and bias (with what is merged into them).
    pub fn base(&self) -> &Projection {
        &self.base
    }

    /// The base, to load into.
    pub fn base_mut(&mut self) -> &mut Projection {
        self.methods_mut().for_each(|(_, method)| method.forget_base());
        self.base.inner_mut()
    }

    /// Makes the base trainable and visible to the optimiser, or frozen and hidden.
    pub fn set_base_trainable(&mut self, trainable: bool) {
        self.base.thaw(trainable);
        let base = self.base.inner_mut();
        base.weight.set_trainable(trainable);
        base.bias = base.bias.take().map(|b| b.set_require_grad(trainable));
    }

    /// The weight (`[out, in]`) with which the layer is one plain product, if it is one: no method is active, and
    /// the rows of a batch do not differ. `tied` (`[out, in]`) is the base's, if not its own.
    pub fn plain_weight(&self, tied: Option<Weight>) -> Option<Weight> {
        if self.adapters.is_by_row() {
            return None;
        }
        let active: Vec<_> = self.adapters.active().collect();
        active.iter().all(|adapter| adapter.method.is_none()).then(|| self.weight_under(&active, tied))
    }

    /// The weight (`[out, in]`) of the base's product under `active`: the one that an adapter brings, else `tied`, else the
    /// base's, with trained rows in their places.
    pub(super) fn weight_under(&self, active: &[&LinearAdapter], tied: Option<Weight>) -> Weight {
        let own = active.iter().find_map(|a| a.weight.as_ref()).map(|own| Weight::Dense(own.val()));
        let weight = own.or(tied).unwrap_or_else(|| self.base.weight.val());
        active.iter().fold(weight, |weight, adapter| adapter.put_rows_into(weight))
    }

    /// The adapters by name.
    pub fn adapters(&self) -> &NamedAdapters<LinearAdapter> {
        &self.adapters
    }

    /// As [`Self::adapters`], to write into.
    pub fn adapters_mut(&mut self) -> &mut NamedAdapters<LinearAdapter> {
        &mut self.adapters
    }

    /// The methods of all adapters, with the adapters' names.
    pub(crate) fn methods_mut(&mut self) -> impl Iterator<Item = (&str, &mut Method)> {
        self.adapters.iter_mut().filter_map(|(name, a)| Some((name, a.method.as_mut()?)))
    }
}

impl From<Linear> for PeftLinear {
    /// The layer frozen, with the same values.
    fn from(linear: Linear) -> Self {
        // Burn's weight is [in, out]; the transposed view shares its memory.
        Self::new(linear.weight.val().detach().transpose(), linear.bias.map(|bias| bias.val().detach()))
    }
}
