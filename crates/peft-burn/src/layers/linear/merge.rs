//! Adapters folded into a linear layer's base, and out of it again.

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use fused_burn::Weight;

use super::adapter::LinearAdapter;
use super::layer::{PeftLinear, Unmerged};
use crate::error::Result;
use crate::layers::frozen::Frozen;
use crate::layers::named_adapters::NamedAdapters;

impl PeftLinear {
    /// The weight that an adapter was made for: the base's before any merge, or the residual that it came with.
    pub(crate) fn weight_made_for(&self, adapter: &LinearAdapter) -> Weight {
        adapter.weight.as_ref().map_or_else(|| self.original_weight(), |own| Weight::Dense(own.val()))
    }

    /// The base's weight before any merge.
    pub(crate) fn original_weight(&self) -> Weight {
        self.unmerged.as_ref().map_or(&self.base.weight, |original| &original.weight).val()
    }

    /// The bias that an adapter finds: the one it trains, or the base's before any merge.
    pub(crate) fn bias_made_for(&self, adapter: &LinearAdapter) -> Option<Tensor<1>> {
        let original = || match &self.unmerged {
            Some(original) => original.bias.clone(),
            None => self.base.bias.as_ref().map(Param::val),
        };
        adapter.bias.as_ref().map(Param::val).or_else(original)
    }

    /// The weight and bias that the base would have with the adapters `names` folded in, in the base's dtype.
    /// `None` when none of them touches this layer.
    pub fn merged_values(&self, names: &[String]) -> Option<(Tensor<2>, Option<Tensor<1>>)> {
        let found: Vec<_> = names.iter().filter_map(|n| self.adapters.get(n)).collect();
        if found.is_empty() {
            return None;
        }
        let base = &self.base;
        let dtype = base.weight.val().dtype();
        let own = found.iter().find_map(|a| a.weight.as_ref()).map(Param::val);
        let weight = own.unwrap_or_else(|| base.weight.val().dense());
        let bias = found.iter().find_map(|a| a.bias.as_ref()).or(base.bias.as_ref()).map(Param::val);
        let mut weight = weight.detach().cast(DType::F32);
        let mut bias = bias.map(|b| b.detach().cast(DType::F32));
        for (method, base) in found.iter().filter_map(|a| Some((a.method.as_ref()?, self.weight_made_for(a)))) {
            weight = method.merge(weight, &base).detach();
            bias = method.apply_bias(bias).map(Tensor::detach);
        }
        for tokens in found.iter().filter_map(|adapter| adapter.tokens.as_ref()) {
            weight = tokens.put_into(weight).detach();
        }
        // The sum is made in f32 and rounded once.
        Some((weight.cast(dtype), bias.map(|b| b.cast(dtype))))
    }

    /// Folds the adapters `names` into the base; [`Self::unmerge`] gives the base back to the bit.
    ///
    /// # Errors
    /// When the layer is merged already.
    pub fn merge(&mut self, names: &[String]) -> Result<()> {
        self.adapters.check_unmerged()?;
        if let Some((weight, bias)) = self.merged_values(names) {
            let base = self.base.inner_mut();
            self.unmerged = Some(Unmerged {
                weight: Frozen::new(base.weight.clone()),
                bias: base.bias.as_ref().map(Param::val),
                had_bias: base.bias.is_some(),
            });
            base.weight.set(weight);
            base.bias = match (base.bias.take(), bias) {
                (Some(old), Some(new)) => Some(old.map(|_| new)),
                (None, Some(new)) => Some(Param::from_tensor(new).set_require_grad(false)),
                (old, None) => old,
            };
        }
        self.adapters.set_merged(names);
        Ok(())
    }

    /// Undoes [`Self::merge`].
    pub fn unmerge(&mut self) {
        self.adapters.set_merged(&[]);
        if let Some(Unmerged { weight, bias, had_bias }) = self.unmerged.take() {
            let base = self.base.inner_mut();
            base.weight.set(weight.val());
            base.bias = if had_bias {
                match (base.bias.take(), bias) {
                    (Some(old), Some(bias)) => Some(old.map(|_| bias)),
                    (old, _) => old,
                }
            } else {
                None
            };
        }
    }

    /// Forgets the values from before the merge and every adapter: what is merged stays.
    pub fn keep_merged(&mut self) {
        self.unmerged = None;
        self.adapters = NamedAdapters::new();
    }
}
