//! The forward pass of a linear layer with adapters.

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use fused_burn::Weight;

use super::adapter::LinearAdapter;
use super::layer::PeftLinear;
use crate::layers::named_adapters::{RowGroup, indices, ungroup};
use crate::methods::Method;

impl PeftLinear {
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
    pub fn forward_with(&self, x: Tensor<2>, tied: Option<Weight>) -> Tensor<2> {
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
        let weight = self.weight_under(&active, tied);
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
    fn forward_groups(&self, x: Tensor<2>, tied: Option<Weight>, groups: &[RowGroup<'_, LinearAdapter>]) -> Tensor<2> {
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
                (weight, _) => {
                    let weight = weight.map_or_else(|| self.base.weight.val(), |own| own.val().into());
                    linear(base_input, weight, None)
                }
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
}

/// The inputs of a forward pass beside x.
#[derive(Default)]
struct Known<'a> {
    /// The base's weight (`[out, in]`), if not its own.
    tied: Option<Weight>,
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

/// `x·Wᵀ + b` for x `[n, in]`, W `[out, in]`, computed in the weight's dtype and returned in x's.
pub(crate) fn linear(x: Tensor<2>, weight: Weight, bias: Option<Tensor<1>>) -> Tensor<2> {
    let dtype = x.dtype();
    let x = if weight.dtype() == dtype { x } else { x.cast(weight.dtype()) };
    let y = add_bias(fused_burn::base_linear(x, weight), bias);
    if y.dtype() == dtype { y } else { y.cast(dtype) }
}

pub(crate) fn add_bias(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let Some(bias) = bias else { return y };
    let bias = if bias.dtype() == y.dtype() { bias } else { bias.cast(y.dtype()) };
    y + bias.unsqueeze()
}
