//! A linear layer whose rows belong to several adapters.

use std::ops::Range;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use fused_burn::{RowGroup, RowUpdate, Weight, scale_rows, update_rows};

use super::host::host;
use super::pack::{Kind, PackedLinear};
use super::plan::Plan;
use crate::layers::linear::{PeftLinear, add_bias, linear};

/// A layer in a pass: its rows by what happens to them.
struct Work<'a> {
    layer: &'a PeftLinear,
    groups: Vec<(Range<usize>, Option<&'a PackedLinear>)>,
    /// The update of rows without an adapter.
    plain: Option<RowUpdate>,
}

impl<'a> Work<'a> {
    /// `None` where nothing but the base's product and bias is to be done.
    fn new(layer: &'a PeftLinear, plan: &'a Plan) -> Option<Self> {
        let groups = plan.groups().iter();
        let groups = groups.map(|g| (g.rows.clone(), g.pack.as_ref().and_then(|p| p.linear(layer.slot()))));
        let groups: Vec<_> = groups.collect();
        if groups.iter().all(|(_, packed)| packed.is_none()) {
            return None;
        }
        let bias = layer.base().bias.as_ref();
        let plain = bias.map(|bias| RowUpdate { bias: host(bias.val()), ..RowUpdate::default() });
        Some(Self { layer, groups, plain })
    }

    /// `x·Wᵀ` of all rows, without a bias, each with the weight and the scale of the input that its adapter has.
    fn product(&self, x: &Tensor<2>, tied: Option<Weight>) -> Tensor<2> {
        let base = tied.unwrap_or_else(|| self.layer.base().weight.val());
        let x = self.scaled(x.clone());
        if self.groups.iter().all(|(_, packed)| packed.is_none_or(|packed| packed.weight.is_none())) {
            return linear(x, base, None);
        }
        let part = |rows: &Range<usize>, weight: &Weight| {
            linear(x.clone().narrow(0, rows.start, rows.len()), weight.clone(), None)
        };
        let (mut parts, mut shared) = (Vec::new(), 0..0);
        for (rows, packed) in &self.groups {
            match packed.and_then(|packed| packed.weight.as_ref()) {
                None => shared.end = rows.end,
                Some(own) => {
                    parts.extend((!shared.is_empty()).then(|| part(&shared, &base)));
                    parts.push(part(rows, &own.clone().into()));
                    shared = rows.end..rows.end;
                }
            }
        }
        parts.extend((!shared.is_empty()).then(|| part(&shared, &base)));
        Tensor::cat(parts, 0)
    }

    /// x with the rows of adapters that scale their input.
    fn scaled(&self, x: Tensor<2>) -> Tensor<2> {
        let mut on_host = Vec::new();
        let mut x = x;
        for (rows, packed) in &self.groups {
            match packed.map(|packed| &packed.kind) {
                Some(Kind::Rows { input, .. }) if !input.is_empty() => on_host.push((rows.clone(), input.as_slice())),
                Some(Kind::Composed(adapter)) => {
                    let Some(method) = adapter.method.as_ref().filter(|m| m.input_scale().is_some()) else { continue };
                    let part = method.scale_input(x.clone().narrow(0, rows.start, rows.len()));
                    x = put(x, rows, part);
                }
                _ => {}
            }
        }
        scale_rows(x, &on_host)
    }

    fn updates(&self) -> Vec<RowGroup<'_>> {
        let groups = self.groups.iter();
        groups
            .filter_map(|(rows, packed)| {
                let update: Option<&RowUpdate> = match packed.map(|packed| &packed.kind) {
                    Some(Kind::Rows { update, .. }) => Some(update).filter(|update| !update.is_empty()),
                    Some(Kind::Composed(_)) => None,
                    None => self.plain.as_ref(),
                };
                update.map(|update| RowGroup { rows: rows.clone(), update })
            })
            .collect()
    }

    /// The work of adapters that are not in host memory.
    fn composed(&self, product: Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
        let mut all = product;
        for (rows, packed) in &self.groups {
            let Some(Kind::Composed(adapter)) = packed.map(|packed| &packed.kind) else { continue };
            let part = |t: &Tensor<2>| t.clone().narrow(0, rows.start, rows.len());
            let (dtype, mut product) = (all.dtype(), part(&all).cast(DType::F32));
            let bias = adapter.bias.as_ref().or(self.layer.base().bias.as_ref());
            let mut bias = bias.map(Param::val).map(|bias| bias.cast(DType::F32));
            if let Some(method) = &adapter.method {
                let base = self.layer.weight_made_for(adapter);
                product = method.apply(product, part(x).cast(DType::F32), &base, None);
                bias = method.apply_bias(bias);
            }
            all = put(all, rows, add_bias(product, bias).cast(dtype));
        }
        all
    }
}

/// `x` with `part` in the place of `rows`.
fn put(x: Tensor<2>, rows: &Range<usize>, part: Tensor<2>) -> Tensor<2> {
    let width = x.dims()[1];
    x.slice_assign([rows.clone(), 0..width], part)
}

impl PeftLinear {
    /// [`Self::forward`] of layers that read the same `x` (`[n, in]`), each row under the adapter that `plan` has for it.
    /// Adapters that were attached to the layers themselves do not count.
    pub fn serve_together<const N: usize>(layers: [&Self; N], x: &Tensor<2>, plan: &Plan) -> [Tensor<2>; N] {
        serve(layers, x, plan, None)
    }

    /// As [`Self::serve_together`], of a head. Adapters may bring heads with other numbers of tokens, so that rows come in
    /// parts of one width each: `[rows, vocab]`. `tied` (`[vocab, hidden]`) is the base's weight, if not its own.
    pub fn serve_head(&self, x: Tensor<2>, tied: Option<Weight>, plan: &Plan) -> Vec<(Range<usize>, Tensor<2>)> {
        let own = |group: &super::PlanGroup| {
            let weight = group.pack.as_ref().and_then(|pack| pack.linear(self.slot())?.weight.as_ref());
            weight.map_or(self.dims()[1], |weight| weight.dims()[0])
        };
        let mut parts: Vec<(usize, Vec<(Option<_>, usize)>)> = Vec::new();
        for group in plan.groups() {
            let (width, part) = (own(group), (group.pack.clone(), group.rows.len()));
            match parts.last_mut() {
                Some((last, groups)) if *last == width => groups.push(part),
                _ => parts.push((width, vec![part])),
            }
        }
        let mut start = 0;
        let part = |(_, groups)| {
            let plan = Plan::new(groups);
            let rows = start..start + plan.num_rows();
            start = rows.end;
            let [y] = serve([self], &x.clone().narrow(0, rows.start, rows.len()), &plan, tied.as_ref());
            (rows, y)
        };
        parts.into_iter().map(part).collect()
    }
}

fn serve<const N: usize>(
    layers: [&PeftLinear; N],
    x: &Tensor<2>,
    plan: &Plan,
    tied: Option<&Weight>,
) -> [Tensor<2>; N] {
    let work = layers.map(|layer| Work::new(layer, plan));
    let products: [Tensor<2>; N] = std::array::from_fn(|i| match &work[i] {
        Some(work) => work.product(x, tied.cloned()),
        None => {
            let base = layers[i].base();
            let weight = tied.cloned().unwrap_or_else(|| base.weight.val());
            linear(x.clone(), weight, base.bias.as_ref().map(Param::val))
        }
    });
    let updates = std::array::from_fn(|i| work[i].as_ref().map(Work::updates).unwrap_or_default());
    let mut products = update_rows(products, x, updates).into_iter().zip(&work);
    std::array::from_fn(|_| match products.next() {
        Some((product, Some(work))) => work.composed(product, x),
        Some((product, None)) => product,
        None => unreachable!("as many products as layers"),
    })
}
