//! Names of an adapter's tensors as older versions of PEFT and other programs write them.

use std::collections::{BTreeMap, BTreeSet};

use crate::methods::PeftConfig;

/// Before a module's path in every name that PEFT writes.
const PREFIX: &str = "base_model.model.";

/// The names of a file by the names that PEFT 0.21 gives the same tensors.
#[derive(Debug)]
pub(crate) struct Spelling {
    /// From PEFT's name to the file's.
    pub(crate) names: BTreeMap<String, String>,
    /// One of the names that are spelled otherwise, with PEFT's for it, and how many there are.
    pub(crate) example: Option<(String, String, usize)>,
    /// Pairs of the file's names that mean the same tensor; the first is the one that counts.
    pub(crate) doubled: Vec<[String; 2]>,
}

impl Spelling {
    /// Reads `names` as those of an adapter of this kind.
    pub(crate) fn read<'a>(names: impl Iterator<Item = &'a str>, config: &PeftConfig) -> Self {
        let mut spelling = Self { names: BTreeMap::new(), example: None, doubled: Vec::new() };
        let all: BTreeSet<&str> = names.collect();
        for &name in &all {
            // The weights of a module before training, in whose place a trained copy comes.
            if name.contains(".original_module.") {
                continue;
            }
            let canonical = canonical(name, config);
            let own = canonical == name;
            // PEFT writes a saved module under both names where it saves embeddings.
            let repeats = name.contains(".modules_to_save.") && all.contains(canonical.as_str());
            if !own && !repeats {
                let example = spelling.example.get_or_insert_with(|| (name.to_owned(), canonical.clone(), 0));
                example.2 += 1;
            }
            match spelling.names.get_mut(&canonical) {
                None => drop(spelling.names.insert(canonical, name.to_owned())),
                Some(known) => {
                    let other = if own { std::mem::replace(known, name.to_owned()) } else { name.to_owned() };
                    spelling.doubled.push([known.clone(), other]);
                }
            }
        }
        spelling
    }
}

/// PEFT's name for the tensor that a file calls `name`.
fn canonical(name: &str, config: &PeftConfig) -> String {
    let mut rest = name;
    // Wrappers around the model: distributed training, torch.compile, PEFT's own.
    while let Some(inner) = ["module.", "_orig_mod.", PREFIX].iter().find_map(|outer| rest.strip_prefix(outer)) {
        rest = inner;
    }
    let alone = rest.strip_prefix("base_model.").unwrap_or(rest).split('.').next();
    if let Some(known) = config.tensors_of_no_module().iter().find(|known| known.strip_prefix("base_model.") == alone) {
        return (*known).to_owned();
    }
    let rest = rest.replace("._orig_mod.", ".");
    let segments: Vec<&str> = rest.split('.').collect();
    if let Some(at) = segments.iter().position(|segment| segment.starts_with(config.tensor_prefix())) {
        let path = segments[..at].join(".");
        let parameter = segments[at];
        let bias = segments[at + 1..].last() == Some(&"bias");
        // Where PEFT keeps A and B as layers, their names end in `.weight` or `.bias`.
        let layer =
            config.factors().iter().flat_map(|(a, b)| [a, b]).any(|name| *name == format!("{parameter}.weight"));
        let ending = if bias { ".bias" } else { ".weight" };
        return format!("{PREFIX}{path}.{parameter}{}", if layer { ending } else { "" });
    }
    if let Some(at) = segments.iter().position(|segment| *segment == "trainable_tokens_delta") {
        return format!("{PREFIX}{}", segments[..=at].join("."));
    }
    if let Some(at) = segments.iter().position(|segment| *segment == "modules_to_save") {
        let (path, tensor) = (segments[..at].join("."), segments.last().copied().unwrap_or_default());
        return format!("{PREFIX}{path}.{tensor}");
    }
    if is_path(&segments) { format!("{PREFIX}{rest}") } else { name.to_owned() }
}

/// Whether the segments can name a tensor of a module.
fn is_path(segments: &[&str]) -> bool {
    segments.len() >= 2 && matches!(segments.last(), Some(&("weight" | "bias")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{AdaLoraConfig, Ia3Config, LoraConfig, VeraConfig};

    #[test]
    fn every_spelling_means_the_name_that_peft_writes() {
        let q = "base_model.model.model.layers.0.self_attn.q_proj";
        let lora = PeftConfig::from(LoraConfig::default());
        for (written, means) in [
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "lora_A.weight"),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "lora_A.weight"),
            ("model.layers.0.self_attn.q_proj.lora_A.weight", "lora_A.weight"),
            ("model.layers.0.self_attn.q_proj.lora_B", "lora_B.weight"),
            ("module.base_model.model.model.layers.0.self_attn.q_proj.lora_B.mine.bias", "lora_B.bias"),
            ("model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight", "lora_magnitude_vector"),
            ("model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight", "lora_magnitude_vector"),
            ("model.layers.0.self_attn.q_proj.modules_to_save.default.weight", "weight"),
            ("_orig_mod.base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias", "base_layer.bias"),
        ] {
            assert_eq!(canonical(written, &lora), format!("{q}.{means}"), "{written}");
        }
        for (written, config, means) in [
            ("model.q.lora_A.default", AdaLoraConfig::default().into(), "base_model.model.model.q.lora_A"),
            ("base_model.vera_A.default", VeraConfig::default().into(), "base_model.vera_A"),
            ("model.k.ia3_l.default", Ia3Config::default().into(), "base_model.model.model.k.ia3_l"),
            ("optimizer", lora, "optimizer"),
        ] {
            assert_eq!(canonical(written, &config), means);
        }
    }

    #[test]
    fn what_is_there_twice_or_a_copy_of_the_base_is_told_apart() {
        let names = ["a.q.lora_A.weight", "base_model.model.a.q.lora_A.weight", "a.head.original_module.weight"];
        let spelling = Spelling::read(names.into_iter(), &LoraConfig::default().into());
        assert_eq!(spelling.doubled, [[names[1], names[0]].map(str::to_owned)], "PEFT's own spelling counts");
        assert_eq!(spelling.names.len(), 1);
        assert_eq!(spelling.example.map(|(_, _, count)| count), Some(1));
    }
}
