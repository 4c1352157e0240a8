//! Which tensor of a checkpoint is which of a model's, and whether they are all there.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::DType;

use super::checkpoint::Checkpoint;
use crate::config::LlamaConfig;
use crate::error::{LlamaError, Result};

const EMBEDDING: &str = "embed_tokens.weight";
/// Tensors by which the place of the model in a checkpoint's names is found: the first of them that there is.
const LANDMARKS: &[&str] = &[EMBEDDING, "layers.0.input_layernorm.weight"];
const HEAD: &str = "lm_head.weight";
/// Tensors that compute positions and masks: older releases saved them.
const BUFFERS: &[&str] = &["rotary_emb.", "inv_freq", "masked_bias", "position_ids", "cos_cached", "sin_cached"];

/// A checkpoint as a model's.
pub(crate) struct Fit {
    /// The model's shape. A head that is stored with other values than the embedding is no longer tied to it.
    pub(crate) config: LlamaConfig,
    /// By Transformers' name of a tensor the one in the files.
    pub(crate) names: BTreeMap<String, String>,
    /// Notes for the user.
    pub(crate) warnings: Vec<String>,
}

/// Finds the tensors of a model of the shape `config` among those of `checkpoint`. Only a tied head's values are read.
///
/// # Errors
/// Tensors that are missing or of another shape, and such that change a module which the configuration says is another:
/// all at once.
pub(crate) fn fit(dir: &Path, config: LlamaConfig, checkpoint: &Checkpoint) -> Result<Fit> {
    let root = root_of(checkpoint);
    let mut config = config;
    let (layers, tensors) = (config.num_hidden_layers, checkpoint.names().count());
    if layers > tensors {
        // Before a name is made for each tensor that is not there.
        let message = format!("its configuration has {layers} layers, and there are only {tensors} tensors");
        return Err(LlamaError::Weights { path: dir.to_owned(), message });
    }
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut others = Vec::new();
    let expected = config.tensor_shapes();
    for stored in checkpoint.names() {
        let meant = meaning(stored, &root);
        match meant {
            Some(meant) if (expected.contains_key(&meant) || meant == HEAD) && !names.contains_key(&meant) => {
                names.insert(meant, stored.to_owned());
            }
            _ => others.push((stored.to_owned(), meant)),
        }
    }
    let mut warnings = Vec::new();
    warnings.extend(spelling(&names));
    let embedding = format!("model.{EMBEDDING}");
    // Of tensors that share memory some programs keep the one that comes first.
    if config.tie_word_embeddings
        && !names.contains_key(&embedding)
        && let Some(stored) = names.remove(HEAD)
    {
        names.insert(embedding, stored);
    }
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    let head_shape = vec![config.vocab_size, config.hidden_size];
    let tied = config.tie_word_embeddings;
    let head = HEAD.to_owned();
    for (name, shape) in expected.iter().chain(tied.then_some((&head, &head_shape))) {
        match names.get(name).and_then(|stored| checkpoint.shape(stored)) {
            None if tied && name == HEAD => {}
            None if name == HEAD => {
                missing.push(format!(
                    "{name} (where the head is the embedding, config.json says tie_word_embeddings: true)"
                ));
            }
            None => missing.push(name.clone()),
            Some(found) if found != shape => misshapen.push(format!("{name} is {found:?}, expected {shape:?}")),
            Some(_) => {}
        }
    }
    let unexpected = unexpected(&others, &mut warnings);
    if !(missing.is_empty() && misshapen.is_empty() && unexpected.is_empty()) {
        return Err(LlamaError::Tensors { path: dir.to_owned(), missing, unexpected, misshapen });
    }
    if tied && names.contains_key(HEAD) {
        if same_values(checkpoint, &names)? {
            names.remove(HEAD);
        } else {
            config.tie_word_embeddings = false;
            warnings.push(format!(
                "{}: tie_word_embeddings is true, and the checkpoint has a lm_head.weight with other values than the \
                 embedding; the stored head is used, as Transformers 5 does, and they are not tied. Set \
                 tie_word_embeddings to false there to say so",
                dir.join("config.json").display()
            ));
        }
    }
    Ok(Fit { config, names, warnings })
}

/// The prefix of `embed_tokens.weight`: `model.` in Transformers' files, nothing in those of the bare decoder, more where
/// the model was saved inside of another.
fn root_of(checkpoint: &Checkpoint) -> String {
    let root = |landmark: &&str| {
        let names = checkpoint.names().map(plain);
        let ends = |name: &String| *name == **landmark || name.ends_with(&format!(".{landmark}"));
        // Transformers' own place where it is there, else the outermost.
        let found = names.filter(ends).min_by_key(|name| (*name != format!("model.{landmark}"), name.len()))?;
        found.strip_suffix(*landmark).map(str::to_owned)
    };
    LANDMARKS.iter().find_map(root).unwrap_or_else(|| "model.".to_owned())
}

/// A name without what `torch.compile` puts inside of it.
fn plain(name: &str) -> String {
    name.replace("_orig_mod.", "")
}

/// Transformers' name for the tensor that the files call `stored`, where it belongs to the model whose names begin with
/// `root`.
fn meaning(stored: &str, root: &str) -> Option<String> {
    let name = plain(stored);
    // The head lies beside the decoder, or in it.
    let mut outer = root;
    loop {
        if name.strip_prefix(outer).is_some_and(|rest| rest.starts_with("lm_head.")) {
            return name.strip_prefix(outer).map(str::to_owned);
        }
        match outer.trim_end_matches('.').rfind('.') {
            Some(at) => outer = &outer[..=at],
            None if outer.is_empty() => break,
            None => outer = "",
        }
    }
    // Names of one file may be with and without `model.`, whichever the landmark's has.
    let outer = root.strip_suffix("model.").unwrap_or(root);
    let within = |root: &str| {
        let rest = name.strip_prefix(root)?;
        let of_decoder = ["layers.", "embed_tokens.", "norm."].iter().any(|part| rest.starts_with(part));
        of_decoder.then(|| format!("model.{rest}"))
    };
    within(root).or_else(|| within(outer)).or_else(|| within(&format!("{outer}model.")))
}

/// A line about names that are spelled otherwise.
fn spelling(names: &BTreeMap<String, String>) -> Option<String> {
    let mut others = names.iter().filter(|(meant, stored)| meant != stored);
    let (meant, stored) = others.next()?;
    let count = others.count() + 1;
    Some(format!("{count} names are not as Transformers writes them: `{stored}` is read as `{meant}`"))
}

/// Of the tensors that the model has no place for: those that change what a module of it is, which are refused. A warning
/// names the others.
fn unexpected(others: &[(String, Option<String>)], warnings: &mut Vec<String>) -> Vec<String> {
    let is_buffer = |name: &str| BUFFERS.iter().any(|part| name.contains(part));
    let (mut refused, mut ignored) = (Vec::new(), Vec::new());
    for (stored, meant) in others {
        match meant {
            Some(_) if stored.contains("lora_") || stored.contains(".base_layer.") => {
                refused.push(format!(
                    "{stored} (of an adapter that is not merged: merge it first, or load it as an adapter)"
                ));
            }
            Some(_) if !is_buffer(stored) => refused.push(stored.clone()),
            _ => ignored.push(stored.as_str()),
        }
    }
    if !ignored.is_empty() {
        let shown = ignored.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        let more = if ignored.len() > 8 { format!(" and {} more", ignored.len() - 8) } else { String::new() };
        warnings.push(format!("tensors that the model does not use are ignored: {shown}{more}"));
    }
    refused
}

/// Whether head and embedding are stored with the same values.
fn same_values(checkpoint: &Checkpoint, names: &BTreeMap<String, String>) -> Result<bool> {
    let embedding = format!("model.{EMBEDDING}");
    let (Some(head), Some(embedding)) = (names.get(HEAD), names.get(&embedding)) else { return Ok(true) };
    let dtype = |name: &str| checkpoint.dtype(name);
    let dtype = (dtype(head) != dtype(embedding)).then_some(DType::F32);
    Ok(checkpoint.data(head, dtype)?.as_bytes() == checkpoint.data(embedding, dtype)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_wherever_the_model_lies() {
        for (stored, root, meant) in [
            ("model.layers.0.mlp.up_proj.weight", "model.", Some("model.layers.0.mlp.up_proj.weight")),
            ("layers.0.mlp.up_proj.weight", "", Some("model.layers.0.mlp.up_proj.weight")),
            ("norm.weight", "", Some("model.norm.weight")),
            ("lm_head.weight", "", Some("lm_head.weight")),
            ("lm_head.weight", "model.", Some("lm_head.weight")),
            (
                "module.model.layers._orig_mod.0.input_layernorm.weight",
                "module.model.",
                Some("model.layers.0.input_layernorm.weight"),
            ),
            ("module.lm_head.weight", "module.model.", Some("lm_head.weight")),
            ("base_model.model.lm_head.weight", "base_model.model.model.", Some("lm_head.weight")),
            ("layers.1.mlp.up_proj.weight", "model.", Some("model.layers.1.mlp.up_proj.weight")),
            ("model.norm.weight", "", Some("model.norm.weight")),
            ("module.norm.weight", "module.model.", Some("model.norm.weight")),
            ("other.norm.weight", "model.", None),
            ("v_head.summary.weight", "model.", None),
            ("v_head.summary.weight", "", None),
            ("score.weight", "model.", None),
        ] {
            assert_eq!(meaning(stored, root).as_deref(), meant, "{stored} under {root:?}");
        }
    }

    #[test]
    fn what_would_change_a_module_is_refused_and_the_rest_is_said() {
        let of = |name: &str, root: &str| (name.to_owned(), meaning(name, root));
        let others = [
            of("model.layers.0.self_attn.q_proj.bias", "model."),
            of("model.layers.7.mlp.up_proj.weight", "model."),
            of("model.layers.0.self_attn.q_proj.lora_A.weight", "model."),
            of("model.layers.0.self_attn.rotary_emb.inv_freq", "model."),
            of("model.layers.0.self_attn.masked_bias", "model."),
            of("v_head.summary.weight", "model."),
        ];
        let mut warnings = Vec::new();
        let refused = unexpected(&others, &mut warnings).join("\n");
        for part in ["q_proj.bias", "layers.7", "lora_A.weight (of an adapter that is not merged"] {
            assert!(refused.contains(part), "{refused}");
        }
        let said = warnings.join("\n");
        for part in ["inv_freq", "masked_bias", "v_head.summary.weight"] {
            assert!(said.contains(part) && !refused.contains(part), "{said}\n{refused}");
        }
    }
}
