//! A base and an adapter as one plain model directory.

mod beside;
mod part;

use std::path::Path;

use burn::tensor::Device;
use peft_burn::{AdapterFiles, PeftModel};

pub(crate) use beside::write_beside;
pub(crate) use part::{part_of, put_in_place};

use crate::config::LlamaConfig;
use crate::error::{LlamaError, Result};
use crate::gguf::{self, GgufType};
use crate::model::Llama;
use crate::quantization::LoadOptions;
use crate::text::adapter::own_files;

const ADAPTER: &str = "adapter";

/// The results of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeReport {
    /// Numbers in the written weights.
    pub parameters: usize,
    /// Layers that the adapter changed.
    pub merged_modules: usize,
    /// Whether config.json said that the head is tied to the embedding and does not any more, because the two differ: by the
    /// adapter, or in the base's own files.
    pub untied: bool,
    /// Notes for the user.
    pub warnings: Vec<String>,
}

/// Writes the model of directory `base` with the adapter of directory `adapter` folded in to `output`, in the base's
/// dtype. Weights that the adapter does not touch, `config.json` and the tokenizer's files are the base's, byte for
/// byte; only `tie_word_embeddings` changes, where the adapter makes a tied head differ from the embedding, and `vocab_size`,
/// where it brings a vocabulary of another size. A tokenizer or chat template of the adapter's own takes the place of the
/// base's, with a warning.
///
/// # Errors
/// An `output` that is not empty; a base or an adapter that cannot be loaded; weights that would not be finite, or
/// biases that the model's configuration has no place for; a file that cannot be written. `output` is then as it was.
pub fn merge_into(
    base: impl AsRef<Path>,
    adapter: impl AsRef<Path>,
    output: impl AsRef<Path>,
    device: &Device,
) -> Result<MergeReport> {
    let (base, adapter, output) = (&*gguf::directory(base.as_ref())?, adapter.as_ref(), output.as_ref());
    let part = part_of(output)?;
    let (model, mut report) = merged(base, adapter, device, |_| {})?;
    write_merged([base, adapter, output], &part, &model, &mut report, |part| {
        model.save_weights(part, None)?;
        Ok(vec![("quantization_config", serde_json::Value::Null)])
    })?;
    Ok(report)
}

/// Fills the folder `part` with the merged `model` and gives it the name `output`. `weights` writes the weights and says which keys of
/// config.json change by that. Adds what there is to say to `report`.
pub(crate) fn write_merged(
    [base, adapter, output]: [&Path; 3],
    part: &Path,
    model: &Llama,
    report: &mut MergeReport,
    weights: impl FnOnce(&Path) -> Result<Vec<(&'static str, serde_json::Value)>>,
) -> Result<()> {
    let own = own_files(base, adapter)?;
    if !own.is_empty() {
        report.warnings.push(format!("the adapter's own {} go with the merged model", own.join(", ")));
    }
    let vocab_size = LlamaConfig::from_dir(base)?.vocab_size;
    put_in_place(part, output, || {
        let mut changed = weights(part)?;
        changed.extend(report.untied.then(|| ("tie_word_embeddings", false.into())));
        let own = model.config().vocab_size;
        changed.extend((own != vocab_size).then(|| ("vocab_size", own.into())));
        write_beside(base, adapter, part, changed)
    })
}

/// Writes the model of directory `base`, with the adapter of directory `adapter` folded in where one is given, to the file
/// `output` in llama.cpp's format. Matrices are stored as `kind`, or where their rows are no whole blocks of it as llama.cpp
/// stores such; vectors are never rounded. A tokenizer of the adapter's own takes the place of the base's.
///
/// # Errors
/// As [`merge_into`]; an `output` that is there already; a model or a tokenizer that llama.cpp does not have.
pub fn merge_into_gguf(
    base: impl AsRef<Path>,
    adapter: Option<&Path>,
    output: impl AsRef<Path>,
    kind: GgufType,
    device: &Device,
) -> Result<MergeReport> {
    let (base, output) = (&*gguf::directory(base.as_ref())?, output.as_ref());
    if output.exists() {
        return Err(LlamaError::OutputExists { path: output.to_owned() });
    }
    let (model, mut report) = match adapter {
        Some(adapter) => merged(base, adapter, device, |_| {})?,
        None => {
            let (model, warnings) = Llama::load(base, &LoadOptions::default(), device)?;
            let parameters = model.config().num_parameters();
            (model, MergeReport { parameters, merged_modules: 0, untied: false, warnings })
        }
    };
    let text = match adapter {
        Some(adapter) if !own_files(base, adapter)?.is_empty() && adapter.join("tokenizer.json").exists() => adapter,
        _ => base,
    };
    if let Some(folder) = output.parent() {
        std::fs::create_dir_all(folder).map_err(LlamaError::io(folder))?;
    }
    report.warnings.extend(gguf::export(&model, text, output, kind)?);
    Ok(report)
}

/// The model of directory `base` with the adapter of directory `adapter` folded in, and what that came to. `before` sees the model
/// as it was loaded.
pub(crate) fn merged(
    base: &Path,
    adapter: &Path,
    device: &Device,
    before: impl FnOnce(&Llama),
) -> Result<(Llama, MergeReport)> {
    let (mut model, mut warnings) = Llama::load(base, &LoadOptions::default(), device)?;
    before(&model);
    let mut of_adapter = model.load_adapter(adapter, ADAPTER, false)?;
    of_adapter.sort();
    warnings.extend(of_adapter);
    let merged_modules = model.adapted_modules(ADAPTER)?.len();
    // The file's own word: a head that is stored with other values is not tied.
    let tied = LlamaConfig::from_dir(base)?.tie_word_embeddings;
    model.merge_and_unload(true)?;
    let untied = tied && !model.config().tie_word_embeddings;
    check_biases(&model)?;
    let parameters = model.config().num_parameters();
    Ok((model, MergeReport { parameters, merged_modules, untied, warnings }))
}

fn check_biases(model: &Llama) -> Result<()> {
    let expected = model.config().tensor_shapes();
    let names = model.weights().into_iter().map(|weight| weight.name);
    let paths: Vec<String> = names.filter(|name| !expected.contains_key(name)).collect();
    if paths.is_empty() { Ok(()) } else { Err(LlamaError::NoPlaceForBias { paths }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
