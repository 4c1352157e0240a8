//! The names that a GGUF file's tensors have in Transformers, and how llama.cpp's converter changed their values.

use burn::tensor::Bytes;
use fused_burn::Format;
use std::collections::BTreeMap;

use super::reader::Gguf;
use crate::error::Result;

/// A change of a tensor that has to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undo {
    Nothing,
    /// The rows of each of so many heads were put in pairs, for rotary embeddings of neighbours.
    Pairs(usize),
    /// One was added.
    One,
}

/// Where a model's tensors are in a GGUF file, under Transformers' names.
#[derive(Debug)]
pub(crate) struct Places(BTreeMap<String, (String, Undo)>);

/// The names of a layer's tensors without `.weight`: the file's, and Transformers'.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The name of a layer's tensor in Transformers, for a file of the architecture `arch`.
fn of_layer(arch: &str, name: &str) -> Option<&'static str> {
    match (name, arch) {
        ("ffn_norm", "gemma2" | "gemma3") => Some("pre_feedforward_layernorm"),
        ("ffn_norm", _) => Some("post_attention_layernorm"),
        ("ffn_up", "phi3") => Some("mlp.gate_up_proj"),
        ("ffn_up", _) => Some("mlp.up_proj"),
        _ => LAYER.iter().find(|(ours, _)| *ours == name).map(|(_, theirs)| *theirs),
    }
}

/// Transformers' name for the tensor `name`, with its `.weight` or `.bias`.
fn of_tensor(arch: &str, name: &str) -> Option<String> {
    let (module, end) = name.rsplit_once('.')?;
    let module = match module {
        "token_embd" => "model.embed_tokens".to_owned(),
        "output_norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let (number, rest) = module.strip_prefix("blk.")?.split_once('.')?;
            format!("model.layers.{number}.{}", of_layer(arch, rest)?)
        }
    };
    Some(format!("{module}.{end}"))
}

/// The file's name for the tensor that Transformers calls `name`.
pub(super) fn to_file(arch: &str, name: &str) -> Option<String> {
    let (module, end) = name.rsplit_once('.')?;
    let module = match module {
        "model.embed_tokens" => "token_embd".to_owned(),
        "model.norm" => "output_norm".to_owned(),
        "lm_head" => "output".to_owned(),
        _ => {
            let (number, rest) = module.strip_prefix("model.layers.")?.split_once('.')?;
            let after = arch.starts_with("gemma2") || arch == "gemma3" || arch == "olmo2";
            let ours = match rest {
                "post_attention_layernorm" if !after => "ffn_norm",
                "pre_feedforward_layernorm" => "ffn_norm",
                "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
                _ => LAYER.iter().find(|(_, theirs)| *theirs == rest).map(|(ours, _)| *ours)?,
            };
            format!("blk.{number}.{ours}")
        }
    };
    Some(format!("{module}.{end}"))
}

/// The change that llama.cpp's converter made to the tensor that Transformers calls `name`.
fn undo_of(arch: &str, name: &str, [heads, kv_heads]: [usize; 2]) -> Undo {
    let pairs = matches!(arch, "llama" | "granite" | "smollm3");
    if pairs && name.contains(".q_proj.") {
        Undo::Pairs(heads)
    } else if pairs && name.contains(".k_proj.") {
        Undo::Pairs(kv_heads)
    } else if arch.starts_with("gemma") && name.ends_with("norm.weight") {
        Undo::One
    } else {
        Undo::Nothing
    }
}

/// The numbers of a tensor as a file has them: the reverse of what reading undoes.
pub(super) fn done(arch: &str, name: &str, values: Vec<f32>, rows: usize, heads: [usize; 2]) -> Vec<f32> {
    match undo_of(arch, name, heads) {
        Undo::Nothing => values,
        Undo::One => values.into_iter().map(|v| v + 1.0).collect(),
        Undo::Pairs(heads) => {
            let width = values.len() / rows.max(1);
            turned(&values, rows, width, heads, true)
        }
    }
}

/// Tensors that say how to compute and are no weights.
fn is_no_weight(name: &str) -> bool {
    name.starts_with("rope_f") || name.ends_with(".rope_freqs.weight") || name.contains("attn_rot_embd")
}

impl Places {
    /// The places of a file's tensors. `heads` are query heads and key heads.
    ///
    /// # Errors
    /// Tensors that no supported family has: all of them.
    pub fn of(file: &Gguf, arch: &str, heads: [usize; 2]) -> Result<Self> {
        let mut places = BTreeMap::new();
        let mut unknown = Vec::new();
        for (name, _) in file.tensors().filter(|(name, _)| !is_no_weight(name)) {
            let Some(theirs) = of_tensor(arch, name) else {
                unknown.push(name);
                continue;
            };
            let undo = undo_of(arch, &theirs, heads);
            places.insert(theirs, (name.to_owned(), undo));
        }
        if unknown.is_empty() {
            return Ok(Self(places));
        }
        let more = if unknown.len() > 8 { format!(" and {} more", unknown.len() - 8) } else { String::new() };
        let listed = unknown.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        Err(file.error(format!(
            "these tensors belong to no model of the architecture {arch} that is known: {listed}{more}"
        )))
    }

    /// Transformers' names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The file's name of the tensor that Transformers calls `name`.
    pub fn in_file(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|(name, _)| name.as_str())
    }

    /// The blocks of the matrix that Transformers calls `name`, in Transformers' order of rows, where its values are stored packed
    /// in a format that products read.
    pub fn packed(&self, file: &Gguf, name: &str) -> Option<(Format, Bytes)> {
        let (stored, undo) = self.0.get(name)?;
        let info = file.tensor(stored)?;
        let format = info.kind.packed()?;
        let blocks = file.blocks(info);
        match undo {
            Undo::Nothing => Some((format, blocks)),
            Undo::One => None,
            Undo::Pairs(heads) => {
                let rows = *info.shape.first()?;
                let turned = turned(&blocks, rows, info.bytes / rows.max(1), *heads, false);
                Some((format, Bytes::from_bytes_vec(turned)))
            }
        }
    }

    /// The numbers of the tensor that Transformers calls `name`.
    pub fn values(&self, file: &Gguf, name: &str) -> Option<Vec<f32>> {
        let (stored, undo) = self.0.get(name)?;
        let info = file.tensor(stored)?;
        let mut values = file.widened(info);
        match undo {
            Undo::Nothing => {}
            Undo::One => values.iter_mut().for_each(|v| *v -= 1.0),
            Undo::Pairs(heads) => {
                let width = info.shape.get(1).copied().unwrap_or(1);
                values = turned(&values, info.shape[0], width, *heads, false);
            }
        }
        Some(values)
    }
}

/// Puts the rows of each head, whose halves turn against each other, into pairs: row `j·d/2 + i` becomes row `2i + j`. Or back.
fn turned<T: Copy>(values: &[T], rows: usize, width: usize, heads: usize, into_pairs: bool) -> Vec<T> {
    let d = (rows / heads.max(1)).max(1);
    let half = (d / 2).max(1);
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (head, within) = (row / d, row % d);
        let from = if into_pairs { within % 2 * half + within / 2 } else { 2 * (within % half) + within / half };
        out.extend_from_slice(&values[(head * d + from) * width..][..width]);
    }
    out
}
