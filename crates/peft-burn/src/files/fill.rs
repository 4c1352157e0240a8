//! An adapter's tensors into a model, all that does not fit reported at once.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, TensorData};

use super::weights::AdapterWeights;
use crate::error::{PeftError, Result};
use crate::layers::layer::LayerRef;
use crate::layers::trained_rows::OWN_VOCABULARY;
use crate::model::{PeftModel, file_key, set_shared_pair, shared_pair_of};
use crate::modules::{ModuleKind, last_segment};

/// Puts the values of `weights` into the attached adapter `name`. Tensors in `by_token` may have another number of rows; those in
/// `repeated` are there twice. `tied`: what the embedding has is the head's too.
///
/// # Errors
/// [`PeftError::Tensors`] with everything that does not fit.
pub(super) fn fill<M: PeftModel>(
    model: &mut M,
    name: &str,
    weights: &AdapterWeights,
    by_token: &BTreeSet<String>,
    repeated: &BTreeSet<String>,
    tied: bool,
) -> Result<()> {
    let mut found = Found { known: repeated.clone(), ..Found::default() };
    let params = model.adapter_params(name)?;
    let mut expected: Vec<_> = params.into_iter().map(|(key, param)| (key, param.shape())).collect();
    expected.extend(projection_shapes(model, name)?);
    for (key, shape) in expected {
        found.take(key, &shape, weights, by_token)?;
    }
    found.misshapen.extend(vocabularies(model, weights, by_token, tied));
    let unknown: Vec<&str> = weights.names().filter(|name| !found.known.contains(*name)).collect();
    for key in unknown {
        match copy_of_base(model, key, weights)? {
            Some(Copy::Same) => {}
            Some(Copy::Other(difference)) => found.unexpected.push(difference),
            None => found.unexpected.push(weights.stored_name(key).to_owned()),
        }
    }
    let Found { values: mut ready, missing, misshapen, non_finite, unexpected, .. } = found;
    let unexpected = [weights.problems(), &unexpected].concat();
    let broken = [&missing, &misshapen, &non_finite, &unexpected];
    if broken.iter().any(|group| !group.is_empty()) {
        let path = weights.path().to_owned();
        return Err(PeftError::Tensors { path, missing, unexpected, misshapen, non_finite });
    }
    if let [a, b] = model.adapter_config(name)?.tensors_of_no_module()
        && let (Some(a), Some(b)) = (ready.remove(*a), ready.remove(*b))
    {
        set_shared_pair(model, name, [a, b]);
    }
    for (key, mut param) in model.adapter_params_mut(name)? {
        if let Some(data) = ready.remove(&key) {
            param.set(data);
        }
    }
    Ok(())
}

/// The tensors that a file has for an adapter, and their faults.
#[derive(Default)]
struct Found {
    known: BTreeSet<String>,
    values: BTreeMap<String, TensorData>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    non_finite: Vec<String>,
    unexpected: Vec<String>,
}

impl Found {
    fn take(
        &mut self,
        key: String,
        shape: &[usize],
        weights: &AdapterWeights,
        by_token: &BTreeSet<String>,
    ) -> Result<()> {
        let fits = |found: &[usize]| found == shape || (by_token.contains(&key) && found.get(1..) == shape.get(1..));
        match weights.shape(&key) {
            None => self.missing.push(key.clone()),
            Some(found) if !fits(found) => self.misshapen.push(format!("{key} is {found:?}, expected {shape:?}")),
            Some(_) => {
                let data = weights.read(&key)?;
                let finite = match data.as_slice::<f32>() {
                    Ok(values) => values.iter().all(|v| v.is_finite()),
                    Err(_) => data.iter::<f32>().all(f32::is_finite),
                };
                if !finite {
                    self.non_finite.push(key.clone());
                }
                self.values.insert(key.clone(), data);
            }
        }
        self.known.insert(key);
        Ok(())
    }
}

/// VeRA's pair with its shapes, if the adapter's configuration says that the file holds it.
fn projection_shapes<M: PeftModel>(model: &M, name: &str) -> Result<Vec<(String, Vec<usize>)>> {
    let config = model.adapter_config(name)?;
    let pair = shared_pair_of(model, name).filter(|_| config.saves_pair());
    let shapes = pair.into_iter().flat_map(|pair| pair.tensors().map(|t| t.dims().to_vec()));
    Ok(config.tensors_of_no_module().iter().map(|name| (*name).to_owned()).zip(shapes).collect())
}

/// A vocabulary of another size must be that of embedding and head alike: a line for each that is left behind.
fn vocabularies<M: PeftModel>(
    model: &M,
    weights: &AdapterWeights,
    by_token: &BTreeSet<String>,
    tied: bool,
) -> Vec<String> {
    let mut rows = Vec::new();
    for module in model.modules() {
        let own = match module.kind {
            ModuleKind::Embedding => module.in_features,
            ModuleKind::OutputHead if tied => continue,
            ModuleKind::OutputHead => module.out_features,
            ModuleKind::Linear | ModuleKind::Other => continue,
        };
        let key = file_key(&module.path, "weight");
        let rows_of = |key: &str| weights.shape(key).and_then(|shape| shape.first().copied());
        let in_file = rows_of(&key).filter(|_| by_token.contains(&key));
        let in_file = in_file.or_else(|| rows_of(&file_key(&module.path, OWN_VOCABULARY)));
        rows.push((module.path, in_file, own));
    }
    let Some(resized) = rows.iter().find_map(|(_, in_file, own)| in_file.filter(|rows| rows != own)) else {
        return Vec::new();
    };
    let left = rows.iter().filter(|(_, in_file, own)| in_file.unwrap_or(*own) != resized);
    left.map(|(path, in_file, own)| {
        let (rows, place) = in_file.map_or((*own, "the base"), |rows| (rows, "the file"));
        format!("{path} has {rows} tokens in {place}, and the file's vocabulary has {resized}")
    })
    .collect()
}

/// The kind of a tensor that PEFT adds beside an adapter.
enum Copy {
    /// The base's values.
    Same,
    /// Others, with what differs.
    Other(String),
}

/// Whether the tensor `key` is one of the base's, which PEFT writes beside an adapter on embedding and head. `None` where it
/// is something else.
fn copy_of_base<M: PeftModel>(model: &M, key: &str, weights: &AdapterWeights) -> Result<Option<Copy>> {
    let layers = model.layers();
    if let Some(copy) = repeats_embedding(&layers, key, weights)? {
        return Ok(Some(copy));
    }
    for (path, layer) in layers {
        let names = ["base_layer.weight", "weight", OWN_VOCABULARY].map(|name| file_key(&path, name));
        if !names.iter().any(|name| name == key) {
            continue;
        }
        return Ok(Some(if is_base(layer, key, weights)? {
            Copy::Same
        } else {
            let (found, base) = (weights.shape(key).unwrap_or_default(), base_weight(layer).shape().to_vec());
            Copy::Other(if found == base {
                format!("{key} (a copy of another base: its values differ from this one's)")
            } else if found.get(1..) == base.get(1..) {
                format!(
                    "{key} (the vocabulary was resized to {} tokens, and this base has {}: load it on the resized base, which \
                     `model.unload().save_pretrained(DIR)` writes in PEFT)",
                    found.first().unwrap_or(&0),
                    base.first().unwrap_or(&0)
                )
            } else {
                format!("{key} (a copy of another base: it is {found:?}, and this one's is {base:?})")
            })
        }));
    }
    Ok(None)
}

/// The trained rows of a head: those of the embedding that it is tied to, which PEFT writes a second time.
fn repeats_embedding(layers: &[(String, LayerRef<'_>)], key: &str, weights: &AdapterWeights) -> Result<Option<Copy>> {
    let Some((path, rest)) = key.split_once(".token_adapter.") else { return Ok(None) };
    let Some((_, head @ LayerRef::Linear(_))) =
        layers.iter().find(|(other, _)| file_key(other, "") == format!("{path}."))
    else {
        return Ok(None);
    };
    let embeddings = layers.iter().filter(|(_, layer)| matches!(layer, LayerRef::Embedding(_)));
    for (embedding, layer) in embeddings {
        let other = file_key(embedding, &format!("token_adapter.{rest}"));
        if weights.shape(&other).is_some()
            && weights.read(&other)? == weights.read(key)?
            && base_weight(*head) == base_weight(*layer)
        {
            return Ok(Some(Copy::Same));
        }
    }
    let name = last_segment(path);
    Ok(Some(Copy::Other(format!(
        "{key} (trained rows of a head that trainable_token_indices does not name: add them there, {{\"{name}\": [...]}})"
    ))))
}

/// Whether the tensor `key` holds the values of the base's weight, as exactly as the coarser of the two dtypes can.
pub(super) fn is_base(layer: LayerRef<'_>, key: &str, weights: &AdapterWeights) -> Result<bool> {
    let base = base_weight(layer);
    if weights.shape(key) != Some(base.shape().as_slice()) {
        return Ok(false);
    }
    let tolerance = |dtype: &str| match dtype {
        "BF16" => 2.0_f32.powi(-7),
        "F16" => 2.0_f32.powi(-9),
        _ => 1e-5,
    };
    let of_base = match base.dtype() {
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        _ => "F32",
    };
    let tolerance = tolerance(&weights.dtype(key)).max(tolerance(of_base));
    let stored = weights.read(key)?;
    let same = |(a, b): (f32, f32)| (a - b).abs() <= tolerance * a.abs().max(b.abs()) + 1e-7;
    Ok(stored.iter::<f32>().zip(base.convert_dtype(DType::F32).iter::<f32>()).all(same))
}

fn base_weight(layer: LayerRef<'_>) -> TensorData {
    match layer {
        LayerRef::Linear(linear) => linear.original_weight().dense().into_data(),
        LayerRef::Embedding(embedding) => embedding.original().dense().into_data(),
        LayerRef::Norm(norm) => norm.original().into_data(),
    }
}
