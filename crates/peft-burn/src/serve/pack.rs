//! The work of an adapter, prepared once.

use std::collections::HashMap;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use fused_burn::{RowLowRank, RowUpdate, Weight};

use super::host::host;
use super::pairs::Pairs;
use crate::error::{Result, Unsupported};
use crate::layers::embedding::EmbeddingAdapter;
use crate::layers::layer::LayerRef;
use crate::layers::linear::{LinearAdapter, PeftLinear};
use crate::layers::named_adapters::LayerAdapter;
use crate::layers::trained_rows::TrainableTokens;
use crate::methods::{MethodLayer, Update};
use crate::model::PeftModel;

/// The work of a method on a row of a layer, in host memory.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// The factors of the input of the base's product: `[in]`, or empty.
    pub input: Vec<f32>,
    /// The update of the product, but for the bias.
    pub update: RowUpdate,
    /// A weight (`[out, in]`) in the place of the base's, with everything in it that is not in `update`.
    pub weight: Option<Tensor<2>>,
}

impl Served {
    /// The work of `method`, made for `base`, by its update and DoRA's norms. `None` of a method without an update.
    pub(crate) fn of_update<M: MethodLayer + ?Sized>(method: &M, base: &Weight) -> Option<Self> {
        let Update { low_rank, magnitude } = method.update()?;
        let ([r, inp], [out, _]) = (low_rank.a.dims(), low_rank.b.dims());
        if r * (inp + out) > inp * out {
            let weight = Some(method.merge(base.dense().cast(DType::F32), base));
            return Some(Self { weight, ..Self::default() });
        }
        let factor = magnitude.map(|m| m.factor(base, &low_rank.a, &low_rank.b, low_rank.scaling));
        let (a, b) = (host(low_rank.a), transposed(&host(low_rank.b), r, low_rank.scaling as f32));
        // Triplets that pruning left at zero are not carried along.
        let live = |j: &usize| {
            let (a, b) = (&a[j * inp..(j + 1) * inp], &b[j * out..(j + 1) * out]);
            a.iter().any(|v| *v != 0.0) && b.iter().any(|v| *v != 0.0)
        };
        let live: Vec<usize> = (0..r).filter(live).collect();
        let low_rank = match live.len() {
            0 => None,
            n if n == r => Some(RowLowRank { rank: r, a, b }),
            n => {
                let rows = |all: &[f32], width: usize| {
                    live.iter().flat_map(|j| &all[j * width..(j + 1) * width]).copied().collect::<Vec<_>>()
                };
                Some(RowLowRank { rank: n, a: rows(&a, inp), b: rows(&b, out) })
            }
        };
        let update = RowUpdate { low_rank, scale: factor.map(host).unwrap_or_default(), ..RowUpdate::default() };
        Some(Self { update, ..Self::default() })
    }
}

/// Rows of `width` values as columns, times `scale`.
fn transposed(values: &[f32], width: usize, scale: f32) -> Vec<f32> {
    let rows = values.len() / width.max(1);
    let mut all = vec![0.0; values.len()];
    for (i, row) in values.chunks_exact(width.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(j, value)| all[j * rows + i] = value * scale);
    }
    all
}

/// The work of an adapter on one linear layer.
#[derive(Debug)]
pub(super) struct PackedLinear {
    /// In the place of the base's weight.
    pub(super) weight: Option<Tensor<2>>,
    pub(super) kind: Kind,
}

/// How a layer's rows are updated.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // most are the larger one
pub(super) enum Kind {
    /// In host memory.
    Rows {
        /// The factors of the input of the base's product, or empty.
        input: Vec<f32>,
        /// The update of the product, the bias included.
        update: RowUpdate,
    },
    /// By the layer of the adapter itself, in memory of the device.
    Composed(LinearAdapter),
}

impl PackedLinear {
    pub(super) fn new(layer: &PeftLinear, adapter: &LinearAdapter, pairs: &Pairs) -> Self {
        let on_host = layer.base().weight.val().device() == Device::flex();
        let mut weight = adapter.weight.as_ref().map(Param::val);
        if adapter.tokens.is_some() && !on_host {
            weight = Some(adapter.put_rows_into(layer.weight_made_for(adapter)).dense());
        }
        let served = match &adapter.method {
            None => Some(Served::default()),
            Some(method) => method.serve(&layer.weight_made_for(adapter), pairs),
        };
        match served.filter(|_| on_host) {
            Some(Served { input, mut update, weight: own }) => {
                let bias = layer.bias_made_for(adapter).map(|bias| bias.cast(DType::F32));
                let bias =
                    adapter.method.as_ref().map_or_else(|| bias.clone(), |method| method.apply_bias(bias.clone()));
                update.bias = bias.map(host).unwrap_or_default();
                update.replaced = adapter.tokens.as_ref().map(replaced).unwrap_or_default();
                Self { weight: own.or(weight), kind: Kind::Rows { input, update } }
            }
            None => Self { weight, kind: Kind::Composed(adapter.clone()) },
        }
    }

    fn num_bytes(&self) -> usize {
        let weight = self.weight.as_ref().map_or(0, |w| w.shape().num_elements() * w.dtype().size());
        weight
            + match &self.kind {
                Kind::Rows { input, update } => 4 * input.len() + update.num_bytes(),
                Kind::Composed(adapter) => bytes_of(adapter),
            }
    }
}

/// Trained rows by the outputs that they make.
fn replaced(tokens: &TrainableTokens) -> Vec<(usize, Vec<f32>)> {
    let width = tokens.rows.val().dims()[1];
    let rows = host(tokens.rows.val());
    tokens.indices.iter().copied().zip(rows.chunks(width.max(1)).map(<[f32]>::to_vec)).collect()
}

fn bytes_of<A: LayerAdapter>(adapter: &A) -> usize {
    adapter.params().iter().map(|(_, param)| 4 * param.num_elements()).sum()
}

/// The work of an adapter on a model, prepared once. It never changes, so that any number of passes share it.
#[derive(Debug, Default)]
pub struct AdapterPack {
    linears: HashMap<usize, PackedLinear>,
    embeddings: HashMap<usize, EmbeddingAdapter>,
    num_bytes: usize,
    kin: usize,
}

impl AdapterPack {
    /// The adapter `name` of `model`, whose layers have places ([`PeftLinear::with_slot`]).
    ///
    /// # Errors
    /// A name that is not attached, or an adapter with norms of its own.
    pub fn of<M: PeftModel>(model: &M, name: &str, pairs: &Pairs) -> Result<Self> {
        model.adapter_config(name)?;
        let (mut pack, mut norms) = (Self::default(), Vec::new());
        for (path, layer) in model.layers() {
            match layer {
                LayerRef::Linear(layer) => {
                    let adapter = layer.adapters().get(name);
                    let packed = adapter.map(|adapter| PackedLinear::new(layer, adapter, pairs));
                    pack.linears.extend(packed.map(|packed| (layer.slot(), packed)));
                }
                LayerRef::Embedding(layer) => {
                    let adapter = layer.adapters().get(name).cloned();
                    pack.embeddings.extend(adapter.map(|adapter| (layer.slot(), adapter)));
                }
                LayerRef::Norm(layer) => norms.extend(layer.adapters().get(name).map(|_| path)),
            }
        }
        if !norms.is_empty() {
            return Err(Unsupported::ServedNorms { modules: norms }.into());
        }
        pack.count();
        Ok(pack)
    }

    /// Makes the outputs of the head at `slot`, which is tied to an embedding, products with the rows that an adapter has trained
    /// of that. `tied` (`[vocab, hidden]`) is the head's weight under the adapter. Does nothing where the adapter brings a head of
    /// its own.
    pub fn replace_outputs(&mut self, slot: usize, bias: Option<Tensor<1>>, tokens: &TrainableTokens, tied: &Weight) {
        let empty = || PackedLinear {
            weight: None,
            kind: Kind::Rows {
                input: Vec::new(),
                update: RowUpdate { bias: bias.map(host).unwrap_or_default(), ..RowUpdate::default() },
            },
        };
        let packed = self.linears.entry(slot).or_insert_with(empty);
        if packed.weight.is_some() {
            return;
        }
        match &mut packed.kind {
            Kind::Rows { update, .. } if tied.device() == Device::flex() => {
                update.replaced = replaced(tokens);
            }
            _ => packed.weight = Some(tied.dense()),
        }
        self.count();
    }

    /// Of one layer.
    #[cfg(test)]
    pub(super) fn of_layer(slot: usize, packed: PackedLinear) -> Self {
        Self { linears: HashMap::from([(slot, packed)]), ..Self::default() }
    }

    fn count(&mut self) {
        let linears: usize = self.linears.values().map(PackedLinear::num_bytes).sum();
        self.num_bytes = linears + self.embeddings.values().map(bytes_of).sum::<usize>();
        let shared = self.linears.values().find_map(|packed| match &packed.kind {
            Kind::Rows { update, .. } => update.shared.as_ref(),
            Kind::Composed(_) => None,
        });
        self.kin = shared.map_or(0, |shared| std::sync::Arc::as_ptr(&shared.pair).addr());
    }

    pub(super) fn linear(&self, slot: usize) -> Option<&PackedLinear> {
        self.linears.get(&slot)
    }

    pub(super) fn embedding(&self, slot: usize) -> Option<&EmbeddingAdapter> {
        self.embeddings.get(&slot)
    }

    /// Bytes that the adapter holds, without what it shares with others.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// A number that packs have in common whose rows are best side by side in a plan; 0 where there are none.
    pub fn kin(&self) -> usize {
        self.kin
    }
}
