//! The frozen pair that the layers of an adapter share, of methods that have one (VeRA).

use burn::tensor::{Device, TensorData};

use super::adaptable::AdaptableModel;
use crate::methods::{PairKey, VeraProjection};

/// The pair of every layer that has one, with the name of its adapter.
fn all<M: AdaptableModel>(model: &M) -> impl Iterator<Item = (String, VeraProjection)> {
    let layers = model.layers().into_iter().filter_map(|(_, layer)| layer.linear());
    let found = layers.flat_map(|linear| linear.adapters().iter()).filter_map(|(name, adapter)| {
        let pair = adapter.method.as_ref()?.shared_pair()?;
        Some((name.to_owned(), pair.clone()))
    });
    found.collect::<Vec<_>>().into_iter()
}

/// Puts `change`'s pair into every layer that has one, by adapter name and present pair.
fn replace<M: AdaptableModel>(model: &mut M, mut change: impl FnMut(&str, VeraProjection) -> VeraProjection) {
    for (_, layer) in model.layers_mut() {
        let Some(linear) = layer.linear() else { continue };
        for (name, method) in linear.methods_mut() {
            if let Some(pair) = method.shared_pair_mut() {
                *pair = change(name, pair.clone());
            }
        }
    }
}

/// The pair that `key` draws: one that an adapter of `model` has already, or a new one.
pub(super) fn shared_pair_for<M: AdaptableModel>(model: &M, key: PairKey, device: &Device) -> VeraProjection {
    let existing = all(model).map(|(_, pair)| pair).find(|pair| pair.is_drawn_as(key));
    existing.unwrap_or_else(|| VeraProjection::draw(key, device))
}

/// The pair of the adapter `name`.
pub(crate) fn shared_pair_of<M: AdaptableModel>(model: &M, name: &str) -> Option<VeraProjection> {
    all(model).find(|(n, _)| n == name).map(|(_, pair)| pair)
}

/// Gives the adapter `name` the pair `[a, b]` of its file. Where that is the pair it has, nothing changes.
pub(crate) fn set_shared_pair<M: AdaptableModel>(model: &mut M, name: &str, pair: [TensorData; 2]) {
    let Some(old) = shared_pair_of(model, name) else { return };
    let new = old.or_of_file(pair);
    replace(model, |n, present| if n == name { new.clone() } else { present });
}
