//! The meaning of an adapter's tensors for a model: which modules are adapted, and which are there whole.

use std::collections::{BTreeMap, BTreeSet};

use super::fill::is_base;
use super::names::CONFIG_NAME;
use super::saved_config;
use super::weights::AdapterWeights;
use crate::config::TargetModules;
use crate::error::Result;
use crate::layers::trained_rows::OWN_VOCABULARY;
use crate::methods::PeftConfig;
use crate::model::{PeftModel, file_key, tie, tied_pair, transposed};
use crate::modules::{ModuleInfo, ModuleKind};
use crate::targets::{Resolution, resolve_saved, with_vocabularies};

/// How an adapter's files fit a model.
#[derive(Debug)]
pub(crate) struct Fit {
    /// The adapter to attach, with a neutral initialisation.
    pub(crate) resolution: Resolution,
    /// The configuration to keep: the file's, completed.
    pub(crate) config: PeftConfig,
    /// Names of tensors that hold one row for each token, of which the file may have another number than the model.
    pub(crate) by_token: BTreeSet<String>,
    /// Names of tensors that repeat others: of a head that is one with the embedding.
    pub(crate) repeated: BTreeSet<String>,
}

/// Reads `config` and the names in `weights` as an adapter of the model.
///
/// # Errors
/// Settings that cannot be loaded; targets of which the model has none.
pub(super) fn fit<M: PeftModel>(
    model: &M,
    config: &PeftConfig,
    weights: &AdapterWeights,
    trainable: bool,
) -> Result<Fit> {
    let origin = weights.path().with_file_name(CONFIG_NAME).display().to_string();
    let saved = saved_config::for_loading(config, &origin)?;
    let own_vocabularies = own_vocabularies(model, &saved.to_attach, weights)?;
    let modules = &with_vocabularies(model.modules(), &own_vocabularies);
    let mut resolution = resolve_saved(&saved.to_attach, modules, model.model_type())?;
    resolution.warnings.splice(0..0, saved.warnings);
    add_adapted(&mut resolution, weights, modules, saved.ties_weights);
    add_whole(model, &mut resolution, weights)?;
    let by_token = |module: &ModuleInfo| matches!(module.kind, ModuleKind::Embedding | ModuleKind::OutputHead);
    let Resolution { modules_to_save, frozen, .. } = &mut resolution;
    // Of a pair that is one, the head is trained where the embedding is.
    if saved.ties_weights && modules_to_save.iter().any(|m| by_token(m) && !frozen.contains(&m.path)) {
        frozen.retain(|path| !modules_to_save.iter().any(|m| by_token(m) && m.path == *path));
    }
    // An adapter that is only used computes the same with two copies.
    let repeated =
        if trainable && saved.ties_weights { train_as_one(model, &mut resolution, weights)? } else { BTreeSet::new() };
    let by_token = resolution
        .modules_to_save
        .iter()
        .filter(|module| by_token(module))
        .map(|module| file_key(&module.path, "weight"))
        .collect();
    resolution.own_vocabularies = own_vocabularies;
    let config = as_in_file(resolution.config.clone(), config);
    Ok(Fit { resolution, config, by_token, repeated })
}

/// Makes one of what the file has for the embedding and for the head that is tied to it. The head's tensors are returned.
fn train_as_one<M: PeftModel>(
    model: &M,
    resolution: &mut Resolution,
    weights: &AdapterWeights,
) -> Result<BTreeSet<String>> {
    let Some([embedding, head]) = tied_pair(model) else { return Ok(BTreeSet::new()) };
    let names = |whole: bool| match whole {
        true => vec![("weight", "weight")],
        false => vec![("lora_embedding_A", "lora_B.weight"), ("lora_embedding_B", "lora_A.weight")],
    };
    let (mut repeated, mut tied) = (BTreeSet::new(), false);
    for (whole, modules) in [(true, &resolution.modules_to_save), (false, &resolution.adapted)] {
        if !modules.contains(&embedding) {
            continue;
        }
        tied = true;
        for (own, other) in names(whole) {
            let (own, other) = (file_key(&embedding.path, own), file_key(&head.path, other));
            // A head that is still as the base's may not be there.
            if weights.shape(&other).is_none() {
                continue;
            }
            let of_head = weights.read(&other)?;
            let of_head = if whole { of_head } else { transposed(of_head) };
            if weights.shape(&own).is_none() || weights.read(&own)? != of_head {
                resolution.warnings.push(format!(
                    "{} and {} differ in the file, though ensure_weight_tying says that they are one: they are trained as two",
                    embedding.path, head.path
                ));
                return Ok(BTreeSet::new());
            }
            repeated.insert(other);
        }
    }
    if tied {
        tie(resolution, [embedding, head])?;
    }
    Ok(repeated)
}

/// Embeddings and heads with trained rows beside which the file has the whole matrix, with other values than the base's: PEFT writes it
/// where the vocabulary was resized. By path, with its number of rows.
fn own_vocabularies<M: PeftModel>(
    model: &M,
    config: &PeftConfig,
    weights: &AdapterWeights,
) -> Result<BTreeMap<String, usize>> {
    let mut own = BTreeMap::new();
    for (path, layer) in model.layers() {
        let key = file_key(&path, OWN_VOCABULARY);
        if let Some(&[rows, _]) = weights.shape(&key)
            && !config.trainable_tokens_for(&path).is_empty()
            && !is_base(layer, &key, weights)?
        {
            own.insert(path, rows);
        }
    }
    Ok(own)
}

/// Modules that the targets leave out and for which there are tensors of an adapter: PEFT puts one on a head that is tied
/// to an adapted embedding.
fn add_adapted(resolution: &mut Resolution, weights: &AdapterWeights, modules: &[ModuleInfo], tied: bool) {
    let prefix = resolution.config.tensor_prefix();
    let has = |module: &ModuleInfo| {
        let start = file_key(&module.path, prefix);
        weights.names().any(|name| name.starts_with(&start))
    };
    let adapts = |module: &ModuleInfo| module.kind != ModuleKind::Other;
    let more: Vec<ModuleInfo> = modules
        .iter()
        .filter(|module| adapts(module) && !resolution.adapted.contains(module) && has(module))
        .cloned()
        .collect();
    if more.is_empty() {
        return;
    }
    let paths: Vec<_> = more.iter().map(|module| module.path.clone()).collect();
    if !tied {
        resolution.warnings.push(format!(
            "target_modules leaves these out, and the file has tensors for them, which are used: {}",
            paths.join(", ")
        ));
    }
    resolution.adapted.extend(more);
    resolution.adapted.sort_by_key(|module| modules.iter().position(|other| other.path == module.path));
    let names = match resolution.config.target_modules() {
        TargetModules::List(names) => names.iter().cloned().chain(paths).collect(),
        _ => resolution.adapted.iter().map(|module| module.path.clone()).collect(),
    };
    *resolution.config.shared_mut().target_modules = TargetModules::List(names);
}

/// Embeddings, heads and norms that lie beside the adapter whole though no configuration says so (`save_embedding_layers`, a
/// vocabulary that was resized, a head tied to a saved embedding, norms that were trained), with other values than the base's.
fn add_whole<M: PeftModel>(model: &M, resolution: &mut Resolution, weights: &AdapterWeights) -> Result<()> {
    let mut whole = Vec::new();
    for module in model.modules() {
        let key = file_key(&module.path, "weight");
        if module.kind == ModuleKind::Linear
            || weights.shape(&key).is_none()
            || resolution.modules_to_save.contains(&module)
            || resolution.adapted.contains(&module)
        {
            continue;
        }
        let layer = model.layers().into_iter().find(|(path, _)| *path == module.path);
        let same = layer.map(|(_, layer)| is_base(layer, &key, weights)).transpose()?;
        if same != Some(true) {
            whole.push(module);
        }
    }
    let norms: Vec<_> = whole.iter().filter(|m| m.kind == ModuleKind::Other).map(|m| m.path.as_str()).collect();
    if !norms.is_empty() {
        resolution.warnings.push(format!(
            "modules_to_save leaves these out, and the file has other values for them than the base, which are used: {}",
            norms.join(", ")
        ));
    }
    // As in PEFT, where they take the place of the base's.
    resolution.frozen = whole.iter().map(|module| module.path.clone()).collect();
    resolution.modules_to_save.extend(whole);
    Ok(())
}

/// `config` with what loading set aside as the file has it, so that it is written again as it was.
fn as_in_file(mut config: PeftConfig, file: &PeftConfig) -> PeftConfig {
    if let (Some((init, other)), Some((file_init, file_other))) = (config.origin_mut(), file.origin()) {
        init.clone_from(file_init);
        other.clone_from(file_other);
    }
    config
}
