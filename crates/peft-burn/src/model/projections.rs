//! VeRA's frozen pair, which the layers of a model share.

use burn::tensor::{Device, TensorData};

use super::adaptable::AdaptableModel;
use crate::methods::{Method, Vera, VeraProjection};

/// All VeRA adapters of a model, with the names of their adapters.
fn all<M: AdaptableModel>(model: &M) -> impl Iterator<Item = (String, Vera)> {
    let layers = model.layers().into_iter().filter_map(|(_, layer)| layer.linear());
    let found = layers.flat_map(|l| l.adapters().iter()).filter_map(|(name, a)| match &a.method {
        Some(Method::Vera(vera)) => Some((name.to_owned(), vera.clone())),
        _ => None,
    });
    found.collect::<Vec<_>>().into_iter()
}

/// Puts `change`'s projection into every VeRA adapter, by adapter name and present projection.
fn replace<M: AdaptableModel>(model: &mut M, mut change: impl FnMut(&str, VeraProjection) -> VeraProjection) {
    for (_, layer) in model.layers_mut() {
        let Some(linear) = layer.linear() else { continue };
        for (name, method) in linear.methods_mut() {
            if let Method::Vera(vera) = method {
                vera.projection = change(name, vera.projection.clone());
            }
        }
    }
}

/// The pair for `key` and these sizes: one that an adapter of `model` has already, or a new one.
pub(crate) fn projection_for<M: AdaptableModel>(
    model: &M,
    key: u64,
    [r, max_in, max_out]: [usize; 3],
    device: &Device,
) -> VeraProjection {
    let existing = all(model).map(|(_, vera)| vera.projection).find(|p| p.is_drawn_as(key, r, max_in, max_out));
    existing.unwrap_or_else(|| VeraProjection::draw(key, r, max_in, max_out, device))
}

/// The pair of the adapter `name`.
pub(crate) fn projection_of<M: AdaptableModel>(model: &M, name: &str) -> Option<VeraProjection> {
    all(model).find(|(n, _)| n == name).map(|(_, vera)| vera.projection)
}

/// Gives the adapter `name` the pair `[a, b]` of its file. Where that is the pair it has, nothing changes.
pub(crate) fn set_projection<M: AdaptableModel>(model: &mut M, name: &str, pair: [TensorData; 2]) {
    let Some(old) = projection_of(model, name) else { return };
    let new = old.or_of_file(pair);
    replace(model, |n, present| if n == name { new.clone() } else { present });
}

/// Lets all layers on a device share one copy of each pair again: moving a model to another device copies the pair once
/// for every layer.
pub fn share_projections<M: AdaptableModel>(model: &mut M) {
    let mut known: Vec<VeraProjection> = Vec::new();
    replace(model, |_, present| {
        if let Some(shared) = known.iter().find(|p| p.shares_memory_with(&present)) {
            return shared.clone();
        }
        known.push(present.clone());
        present
    });
}
