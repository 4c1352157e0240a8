//! A linear layer that takes adapters.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};

use super::frozen::Frozen;
use super::named_adapters::{LayerAdapter, NamedAdapters, RowGroup, indices, ungroup};
use crate::error::Result;
use crate::methods::Method;
use crate::param::{ParamMut, ParamRef};

/// Weight `[out, in]`, as Hugging Face stores it, and bias `[out]`.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

/// What one adapter holds for one linear layer.
#[derive(Module, Debug)]
pub struct LinearAdapter {
    /// The adapter proper; `None` for a layer that only has a trained bias or a trained copy.
    pub method: Option<Method>,
    /// A trained bias (PEFT's `bias = "all"` or `"lora_only"`), which stands in for the base's.
    pub bias: Option<Param<Tensor<1>>>,
    /// A weight that stands in for the base's: a trained copy (`modules_to_save`), or the frozen residual of an
    /// initialisation that moved a part of the weight into the adapter.
    pub weight: Option<Param<Tensor<2>>>,
}

impl LinearAdapter {
    /// An adapter of one method.
    pub fn new(method: Method) -> Self {
        Self { method: Some(method), bias: None, weight: None }
    }

    /// A trained copy of the whole layer (`modules_to_save`).
    pub fn copy_of(base: &Projection) -> Self {
        Self {
            method: None,
            bias: base.bias.as_ref().map(|b| Param::from_tensor(b.val().detach().cast(DType::F32))),
            weight: Some(Param::from_tensor(base.weight.val().detach().cast(DType::F32))),
        }
    }
}

impl LayerAdapter for LinearAdapter {
    fn params(&self) -> Vec<(&'static str, ParamRef<'_>)> {
        let mut all = self.method.as_ref().map(|method| method.params()).unwrap_or_default();
        let adapted = self.method.is_some();
        all.extend(self.bias.iter().map(|b| (bias_name(adapted), ParamRef::from(b))));
        all.extend(self.weight.iter().filter(|_| !adapted).map(|w| ("weight", ParamRef::from(w))));
        all
    }

    fn params_mut(&mut self) -> Vec<(&'static str, ParamMut<'_>)> {
        let adapted = self.method.is_some();
        let mut all = self.method.as_mut().map(|method| method.params_mut()).unwrap_or_default();
        all.extend(self.bias.iter_mut().map(|b| (bias_name(adapted), ParamMut::from(b))));
        all.extend(self.weight.iter_mut().filter(|_| !adapted).map(|w| ("weight", ParamMut::from(w))));
        all
    }

    fn prepare_training(&mut self) {
        self.method.iter_mut().for_each(|method| method.prepare_training());
    }
}

/// PEFT wraps an adapted layer, so that its bias lies one level down.
fn bias_name(adapted: bool) -> &'static str {
    if adapted { "base_layer.bias" } else { "bias" }
}

/// The base's values from before a merge, kept so that unmerging gives them back to the bit.
#[derive(Module, Debug)]
struct Unmerged {
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    had_bias: bool,
}

/// A frozen linear layer with any number of named adapters, of which some are active.
#[derive(Module, Debug)]
pub struct PeftLinear {
    base: Frozen<Projection>,
    adapters: NamedAdapters<LinearAdapter>,
    unmerged: Option<Unmerged>,
    slot: usize,
}

impl PeftLinear {
    /// A layer without adapters. Its parameters are frozen.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        let weight = Param::from_tensor(weight).set_require_grad(false);
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
        base.weight = base.weight.clone().set_require_grad(trainable);
        base.bias = base.bias.take().map(|b| b.set_require_grad(trainable));
    }

    /// `y = x·Wᵀ + b` and what the active adapters make of it. `x`: `[n, in]`, result `[n, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward_with(x, None)
    }

    /// [`Self::forward`] of layers that read the same `x`: what their adapters have in common is computed once, which is
    /// VeRA's `x·Aᵀ`.
    pub fn forward_together<const N: usize>(layers: [&Self; N], x: Tensor<2>) -> [Tensor<2>; N] {
        let shared = |layer: &Self| layer.only_method().and_then(|method| method.shared_input());
        let first = layers.iter().find(|layer| shared(layer).is_some()).and_then(|layer| layer.only_method());
        let low = first.map(|method| method.project_input(x.clone().cast(DType::F32)));
        let key = first.and_then(|method| method.shared_input());
        layers.map(|layer| {
            let shares = key.is_some() && shared(layer) == key;
            layer.forward_reusing(x.clone(), Known { low: low.as_ref().filter(|_| shares), ..Known::default() })
        })
    }

    /// The vector (`[in]`) by which the only active adapter scales the layer's input ((IA)³'s does), if there is one:
    /// whoever makes the input can scale it in the same breath, and call [`Self::forward_scaled`].
    pub fn input_scale(&self) -> Option<Tensor<1>> {
        self.only_method().filter(|_| !self.adapters.is_by_row())?.input_scale()
    }

    /// [`Self::forward`] for an `x` that is times [`Self::input_scale`] already, which must have been there.
    pub fn forward_scaled(&self, x: Tensor<2>) -> Tensor<2> {
        debug_assert!(self.input_scale().is_some(), "there is no scale that x could be times already");
        self.forward_reusing(x, Known { scaled: true, ..Known::default() })
    }

    /// The method of the adapter that is the only active one, if one is.
    fn only_method(&self) -> Option<&Method> {
        let mut active = self.adapters.active();
        let first = active.next()?.method.as_ref()?;
        active.next().is_none().then_some(first)
    }

    /// As [`Self::forward`], with `tied` (`[out, in]`) as the base's weight: a head that shares the embedding's.
    pub fn forward_with(&self, x: Tensor<2>, tied: Option<Tensor<2>>) -> Tensor<2> {
        self.forward_reusing(x, Known { tied, ..Known::default() })
    }

    fn forward_reusing(&self, x: Tensor<2>, Known { tied, low, scaled }: Known<'_>) -> Tensor<2> {
        if let Some(groups) = self.adapters.groups(x.dims()[0]) {
            return self.forward_groups(x, tied, &groups);
        }
        let active: Vec<_> = self.adapters.active().collect();
        if active.is_empty() {
            let weight = tied.unwrap_or_else(|| self.base.weight.val());
            return linear(x, weight, self.base.bias.as_ref().map(Param::val));
        }
        let weight = active.iter().find_map(|a| a.weight.as_ref()).map(Param::val);
        let weight = weight.or(tied).unwrap_or_else(|| self.base.weight.val());
        let bias = active.iter().find_map(|a| a.bias.as_ref()).or(self.base.bias.as_ref()).map(Param::val);
        let methods: Vec<_> =
            active.iter().filter_map(|a| Some((a.method.as_ref()?, self.weight_made_for(a)))).collect();
        if methods.is_empty() {
            return linear(x, weight, bias);
        }
        // Adapters compute in f32 whatever the base does, and the sum is rounded once.
        let dtype = x.dtype();
        let mut inputs = Vec::with_capacity(methods.len());
        let base_input = methods.iter().rev().fold(x, |x, (method, _)| {
            inputs.push(x.clone());
            if scaled { x } else { method.scale_input(x) }
        });
        // The first adapter and the base's product are one operation where there is one for them.
        let last = methods.len() == 1 && bias.is_none();
        let fused = methods.first().and_then(|(method, base)| method.project(&base_input, &weight, base, low, last));
        let applied = usize::from(fused.is_some());
        let product = fused.unwrap_or_else(|| linear(base_input, weight, None));
        if last && applied == 1 {
            return product.cast(dtype);
        }
        let mut product = product.cast(DType::F32);
        let mut bias = bias.map(|b| b.cast(DType::F32));
        for (at, ((method, base), x)) in methods.into_iter().zip(inputs.into_iter().rev()).enumerate() {
            if at >= applied {
                product = method.apply(product, x.cast(DType::F32), &base, low);
            }
            bias = method.apply_bias(bias);
        }
        add_bias(product, bias).cast(dtype)
    }

    /// As [`Self::forward_with`], each group of rows with its own adapter. The base's product is one for all of them.
    fn forward_groups(
        &self,
        x: Tensor<2>,
        tied: Option<Tensor<2>>,
        groups: &[RowGroup<'_, LinearAdapter>],
    ) -> Tensor<2> {
        let (dtype, device) = (x.dtype(), x.device());
        let inputs: Vec<_> = groups.iter().map(|g| x.clone().select(0, indices(g.rows.clone(), &device))).collect();
        let scaled = |(group, x): (&RowGroup<'_, LinearAdapter>, &Tensor<2>)| match group.method() {
            Some(method) => method.scale_input(x.clone()),
            None => x.clone(),
        };
        let base_inputs: Vec<_> = groups.iter().zip(&inputs).map(scaled).collect();
        let sharing = groups.iter().zip(&base_inputs).filter(|(group, _)| group.own_weight().is_none());
        let sharing: Vec<_> = sharing.map(|(_, x)| x.clone()).collect();
        let shared = (!sharing.is_empty()).then(|| {
            let weight = tied.unwrap_or_else(|| self.base.weight.val());
            linear(Tensor::cat(sharing, 0), weight, None)
        });
        let mut done = 0;
        let mut parts = Vec::with_capacity(groups.len());
        for ((group, x), base_input) in groups.iter().zip(inputs).zip(base_inputs) {
            let mut product = match (group.own_weight(), &shared) {
                (None, Some(shared)) => {
                    done += group.rows.len();
                    shared.clone().narrow(0, done - group.rows.len(), group.rows.len())
                }
                (weight, _) => linear(base_input, weight.unwrap_or(&self.base.weight).val(), None),
            }
            .cast(DType::F32);
            let own_bias = group.adapter.and_then(|a| a.bias.as_ref());
            let mut bias = own_bias.or(self.base.bias.as_ref()).map(|b| b.val().cast(DType::F32));
            if let (Some(adapter), Some(method)) = (group.adapter, group.method()) {
                product = method.apply(product, x.cast(DType::F32), &self.weight_made_for(adapter), None);
                bias = method.apply_bias(bias);
            }
            parts.push(add_bias(product, bias).cast(dtype));
        }
        ungroup(parts, groups)
    }

    /// The weight that an adapter was made for: the base's before any merge, or the residual that it came with.
    pub(crate) fn weight_made_for(&self, adapter: &LinearAdapter) -> Tensor<2> {
        adapter.weight.as_ref().map_or_else(|| self.original_weight(), Param::val)
    }

    /// The base's weight before any merge.
    pub(crate) fn original_weight(&self) -> Tensor<2> {
        self.unmerged.as_ref().map_or_else(|| self.base.weight.val(), |original| original.weight.clone())
    }

    /// The bias that an adapter finds: the one it trains, or the base's before any merge.
    pub(crate) fn bias_made_for(&self, adapter: &LinearAdapter) -> Option<Tensor<1>> {
        let original = || match &self.unmerged {
            Some(original) => original.bias.clone(),
            None => self.base.bias.as_ref().map(Param::val),
        };
        adapter.bias.as_ref().map(Param::val).or_else(original)
    }

    /// The weight (`[out, in]`) with which the layer is one plain product, if it is one: no method is active, and
    /// the rows of a batch do not differ.
    pub fn plain_weight(&self) -> Option<Tensor<2>> {
        if self.adapters.is_by_row() {
            return None;
        }
        let mut weight = None;
        for adapter in self.adapters.active() {
            if adapter.method.is_some() {
                return None;
            }
            weight = weight.or_else(|| adapter.weight.as_ref().map(Param::val));
        }
        Some(weight.unwrap_or_else(|| self.base.weight.val()))
    }

    /// Whether an active adapter replaces the base's weight.
    pub fn replaces_weight(&self) -> bool {
        self.adapters.active().any(|a| a.weight.is_some())
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

    /// The weight and bias that the base would have with the adapters `names` folded in, in the base's dtype.
    /// `None` when none of them touches this layer.
    pub fn merged_values(&self, names: &[String]) -> Option<(Tensor<2>, Option<Tensor<1>>)> {
        let found: Vec<_> = names.iter().filter_map(|n| self.adapters.get(n)).collect();
        if found.is_empty() {
            return None;
        }
        let base = &self.base;
        let dtype = base.weight.val().dtype();
        let weight = found.iter().find_map(|a| a.weight.as_ref()).unwrap_or(&base.weight).val();
        let bias = found.iter().find_map(|a| a.bias.as_ref()).or(base.bias.as_ref()).map(Param::val);
        let mut weight = weight.detach().cast(DType::F32);
        let mut bias = bias.map(|b| b.detach().cast(DType::F32));
        for (method, base) in found.iter().filter_map(|a| Some((a.method.as_ref()?, self.weight_made_for(a)))) {
            weight = method.merge(weight, &base).detach();
            bias = method.apply_bias(bias).map(Tensor::detach);
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
                weight: base.weight.val(),
                bias: base.bias.as_ref().map(Param::val),
                had_bias: base.bias.is_some(),
            });
            base.weight = base.weight.clone().map(|_| weight);
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
            base.weight = base.weight.clone().map(|_| weight);
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

/// What a forward pass is told beside x.
#[derive(Default)]
struct Known<'a> {
    /// The base's weight (`[out, in]`), if not its own.
    tied: Option<Tensor<2>>,
    /// VeRA's `x·Aᵀ`.
    low: Option<&'a Tensor<2>>,
    /// x is times (IA)³'s vector already.
    scaled: bool,
}

impl<'a> RowGroup<'a, LinearAdapter> {
    fn method(&self) -> Option<&'a Method> {
        self.adapter?.method.as_ref()
    }

    fn own_weight(&self) -> Option<&'a Param<Tensor<2>>> {
        self.adapter?.weight.as_ref()
    }
}

impl From<Linear> for PeftLinear {
    /// The layer frozen, with the same values.
    fn from(linear: Linear) -> Self {
        // Burn's weight is [in, out]; the transposed view shares its memory.
        Self::new(linear.weight.val().detach().transpose(), linear.bias.map(|bias| bias.val().detach()))
    }
}

/// `x·Wᵀ + b` for x `[n, in]`, W `[out, in]`, computed in the weight's dtype and returned in x's.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let dtype = x.dtype();
    let x = if weight.dtype() == dtype { x } else { x.cast(weight.dtype()) };
    let y = add_bias(fused_burn::linear(x, weight), bias);
    if y.dtype() == dtype { y } else { y.cast(dtype) }
}

pub(crate) fn add_bias(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let Some(bias) = bias else { return y };
    let bias = if bias.dtype() == y.dtype() { bias } else { bias.cast(y.dtype()) };
    y + bias.unsqueeze()
}
