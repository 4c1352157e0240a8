//! Attaching a new adapter to a model.

use std::collections::BTreeMap;

use super::adaptable::AdaptableModel;
use super::checks;
use super::names::device_of;
use super::new_adapter::New;
use super::shared_pairs::shared_pair_for;
use super::state::AdapterState;
use super::tying::follower;
use crate::error::{Result, Unsupported};
use crate::layers::layer::{LayerMut, LayerRef};
use crate::layers::norm::NormAdapter;
use crate::targets::Resolution;

/// Makes the layers of the adapter `name`, and when all are made, puts them into the model. Returns what the user should know.
pub(super) fn attach<M: AdaptableModel>(
    model: &mut M,
    name: &str,
    resolution: Resolution,
    seed: u64,
    trainable: bool,
) -> Result<Vec<String>> {
    let (max_in, max_out) = resolution.largest_features();
    let Resolution { config, adapted, modules_to_save, frozen, own_vocabularies, tied, warnings } = resolution;
    let state = model.peft_state();
    checks::name(name, state)?;
    let adapted: Vec<String> = adapted.into_iter().map(|m| m.path).collect();
    let saved: Vec<String> = modules_to_save.into_iter().map(|m| m.path).collect();
    let key = config.shared_pair(max_in, max_out);
    let shared_pair = key.map(|key| shared_pair_for(model, key, &device_of(model)));
    let shared_pair = shared_pair.as_ref();
    let (own_vocabularies, follower) = (&own_vocabularies, follower(model, &config)?);
    let follower = follower.as_deref();
    let new = New {
        config: &config,
        seed,
        adapted: &adapted,
        saved: &saved,
        frozen: &frozen,
        own_vocabularies,
        follower,
        tied,
        shared_pair,
    };
    let mut linears = BTreeMap::new();
    let mut embeddings = BTreeMap::new();
    let mut norms = BTreeMap::new();
    for (path, layer) in model.layers() {
        match layer {
            LayerRef::Linear(l) => {
                if let Some(adapter) = new.linear(&path, l)? {
                    linears.insert(path, adapter);
                }
            }
            LayerRef::Embedding(e) => {
                if let Some(adapter) = new.embedding(&path, e)? {
                    embeddings.insert(path, adapter);
                }
            }
            LayerRef::Norm(norm) if saved.contains(&path) => {
                let copy = NormAdapter::copy_of(&norm.base().val());
                let frozen = new.frozen(&path);
                norms.insert(path, NormAdapter { frozen, ..copy });
            }
            LayerRef::Norm(_) => {}
        }
    }
    let made = |path: &String| linears.contains_key(path) || embeddings.contains_key(path) || norms.contains_key(path);
    let modules: Vec<_> = saved.iter().filter(|path| !made(path)).cloned().collect();
    if !modules.is_empty() {
        return Err(Unsupported::ModulesToSave { modules }.into());
    }
    for (path, layer) in model.layers_mut() {
        match layer {
            LayerMut::Linear(l) => linears.remove(&path).into_iter().for_each(|a| l.adapters_mut().insert(name, a)),
            LayerMut::Embedding(e) => {
                embeddings.remove(&path).into_iter().for_each(|a| e.adapters_mut().insert(name, a))
            }
            LayerMut::Norm(norm) => norms.remove(&path).into_iter().for_each(|a| norm.adapters_mut().insert(name, a)),
        }
    }
    model.peft_state_mut().adapters.insert(name.into(), AdapterState { config, adapted, saved, frozen: !trainable });
    Ok(warnings)
}
