//! A base and an adapter as one plain model directory.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use peft_burn::tensor_file::write_atomic;
use peft_burn::{AdapterFiles, PeftModel};

use crate::config::LlamaConfig;
use crate::error::{LlamaError, Result};
use crate::gguf::{self, GgufType};
use crate::model::Llama;
use crate::quantization::LoadOptions;
use crate::text::adapter::{TEMPLATE, TOKENIZER, own_files};

/// The files that go with the weights of a model beside its files of text, where it has them.
const BESIDE: &[&str] = &["generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE"];
/// A folder of further templates.
const TEMPLATES: &str = "additional_chat_templates";

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

/// Fills the folder `part` by `write`, and gives it the name `output`; if that fails nothing is left.
pub(crate) fn put_in_place(part: &Path, output: &Path, write: impl FnOnce() -> Result<()>) -> Result<()> {
    let written = write().and_then(|()| {
        // An empty folder in the place would stop the rename on some systems.
        let _ = std::fs::remove_dir(output);
        std::fs::rename(part, output).map_err(LlamaError::io(output))
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_dir_all(part);
    }
    written
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
    // What the file says: a head that is stored with other values is not tied.
    let tied = LlamaConfig::from_dir(base)?.tie_word_embeddings;
    model.merge_and_unload(true)?;
    let untied = tied && !model.config().tie_word_embeddings;
    check_biases(&model)?;
    let parameters = model.config().num_parameters();
    Ok((model, MergeReport { parameters, merged_modules, untied, warnings }))
}

/// The folder beside `output` that is filled and then renamed.
pub(crate) fn part_of(output: &Path) -> Result<PathBuf> {
    let entries = match std::fs::read_dir(output) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(LlamaError::io(output)(error)),
    };
    let Some(name) = output.file_name().filter(|_| !entries) else {
        return Err(LlamaError::OutputExists { path: output.to_owned() });
    };
    let part = output.with_file_name(format!(".{}.part", name.to_string_lossy()));
    if part.exists() {
        std::fs::remove_dir_all(&part).map_err(LlamaError::io(&part))?;
    }
    Ok(part)
}

fn check_biases(model: &Llama) -> Result<()> {
    let expected = model.config().tensor_shapes();
    let names = model.weights().into_iter().map(|weight| weight.name);
    let paths: Vec<String> = names.filter(|name| !expected.contains_key(name)).collect();
    if paths.is_empty() { Ok(()) } else { Err(LlamaError::NoPlaceForBias { paths }) }
}

/// Whether a `tokenizer_config.json` holds a chat template.
fn names_template(config: &Path) -> bool {
    let json = std::fs::read(config).ok().and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
    json.is_some_and(|json| json.get("chat_template").is_some_and(|template| !template.is_null()))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(to).map_err(LlamaError::io(to))?;
    for entry in std::fs::read_dir(from).map_err(LlamaError::io(from))? {
        let path = entry.map_err(LlamaError::io(from))?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            std::fs::copy(&path, to.join(name)).map_err(LlamaError::io(&path))?;
        }
    }
    Ok(())
}

/// Writes what goes with the weights of `base` under `adapter` into the folder `part`: `config.json` with other values for the
/// keys `changed` (null takes a key out), and the files of text.
pub(crate) fn write_beside(
    base: &Path,
    adapter: &Path,
    part: &Path,
    changed: Vec<(&str, serde_json::Value)>,
) -> Result<()> {
    let has = |dir: &Path, names: &[&str]| names.iter().any(|name| dir.join(name).exists());
    let tokenizer = if has(adapter, &["tokenizer.json", "tokenizer.model"]) { adapter } else { base };
    let template = if has(adapter, TEMPLATE) || adapter.join(TEMPLATES).exists() { adapter } else { base };
    let copy = |dir: &Path, name: &str| {
        let (from, to) = (dir.join(name), part.join(name));
        if from.exists() { std::fs::copy(&from, &to).map(|_| ()).map_err(LlamaError::io(&to)) } else { Ok(()) }
    };
    BESIDE.iter().try_for_each(|name| copy(base, name))?;
    TOKENIZER.iter().try_for_each(|name| copy(tokenizer, name))?;
    // A template in the adapter's tokenizer_config.json is not to be overruled by the base's file.
    if template == adapter || !names_template(&tokenizer.join("tokenizer_config.json")) || tokenizer == base {
        TEMPLATE.iter().try_for_each(|name| copy(template, name))?;
        copy_folder(&template.join(TEMPLATES), &part.join(TEMPLATES))?;
    }
    let path = base.join("config.json");
    let mut config = std::fs::read(&path).map_err(LlamaError::io(&path))?;
    let mut json: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&config).map_err(LlamaError::json(&path))?;
    let before = json.clone();
    for (key, value) in changed {
        if value.is_null() {
            json.shift_remove(key)
        } else {
            json.insert(key.to_owned(), value)
        };
    }
    if json != before {
        config = format!("{:#}\n", serde_json::Value::Object(json)).into_bytes();
    }
    Ok(write_atomic(part.join("config.json"), &config)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use burn::tensor::TensorData;
    use peft_burn::{AdaLoraConfig, Ia3Config, LoraConfig, PeftConfig, TargetModules, TensorRng, VeraConfig};

    use super::*;
    use crate::Input;

    const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 24, "hidden_size": 16, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "initializer_range": 0.3, "unknown_key": [1, 2]}"#;

    /// A tied base, an adapter with random values on it, and the logits of both together.
    fn make(dir: &Path, config: impl Into<PeftConfig>) -> Vec<f32> {
        let device = Device::flex();
        let shape = LlamaConfig::from_json(CONFIG, Path::new("config.json")).unwrap();
        let mut model = Llama::random(shape, 1, &device);
        model.save(dir.join("base"), None).unwrap();
        std::fs::write(dir.join("base/config.json"), CONFIG).unwrap();
        std::fs::write(dir.join("base/tokenizer.json"), "{\"any\": 1}").unwrap();
        model.add_adapter("x", &config.into(), 3).unwrap();
        let shapes: Vec<_> = model.adapter_params("x").unwrap().iter().map(|(_, param)| param.shape()).collect();
        for ((key, mut param), shape) in model.adapter_params_mut("x").unwrap().into_iter().zip(shapes) {
            let values = TensorRng::new(5, &key).normal(shape.iter().product(), 0.2);
            param.set(TensorData::new(values, shape));
        }
        model.save_adapter("x", dir.join("adapter")).unwrap();
        logits(&model)
    }

    fn logits(model: &Llama) -> Vec<f32> {
        let input = Input::from_rows(&[vec![1, 5, 9, 2], vec![3, 3, 20, 7]], &model.device());
        model.forward(&input).into_data().iter::<f32>().collect()
    }

    fn close(a: &[f32], b: &[f32]) {
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "differs by {worst}");
    }

    fn lora(targets: &[&str]) -> LoraConfig {
        LoraConfig { r: 2, target_modules: TargetModules::list(targets.to_vec()), ..LoraConfig::default() }
    }

    /// DoRA, VeRA, AdaLoRA and IA3.
    fn every_method(targets: &[&str]) -> [PeftConfig; 4] {
        let target_modules = TargetModules::list(targets.to_vec());
        let adalora = AdaLoraConfig { init_r: 3, target_r: 2, target_modules, ..AdaLoraConfig::default() };
        let vera = VeraConfig { r: 4, target_modules: adalora.target_modules.clone(), ..VeraConfig::default() };
        let ia3 = Ia3Config { target_modules: adalora.target_modules.clone(), ..Ia3Config::default() };
        [LoraConfig { use_dora: true, ..lora(targets) }.into(), adalora.into(), vera.into(), ia3.into()]
    }

    #[test]
    fn the_merged_directory_is_the_base_with_other_weights() {
        let dir = tempfile::tempdir().unwrap();
        let expected = make(dir.path(), lora(&["q_proj", "down_proj"]));
        let [base, adapter, out] = ["base", "adapter", "out"].map(|name| dir.path().join(name));
        let report = merge_into(&base, &adapter, &out, &Device::flex()).unwrap();
        assert_eq!((report.merged_modules, report.untied), (4, false));
        for name in ["config.json", "tokenizer.json"] {
            assert_eq!(std::fs::read(out.join(name)).unwrap(), std::fs::read(base.join(name)).unwrap(), "{name}");
        }
        close(&logits(&Llama::from_dir(&out, None, &Device::flex()).unwrap()), &expected);
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "nothing is left beside: {names:?}");
    }

    #[test]
    fn an_adapter_on_one_end_of_a_tied_pair_unties_it() {
        let saved = LoraConfig { modules_to_save: Some(vec!["lm_head".into()]), ..lora(&["q_proj"]) };
        let embedding = LoraConfig { modules_to_save: Some(vec!["embed_tokens".into()]), ..lora(&["q_proj"]) };
        let loras = [lora(&["lm_head"]), lora(&["embed_tokens"]), saved, embedding].map(PeftConfig::from);
        for config in loras.into_iter().chain(every_method(&["lm_head"])) {
            let dir = tempfile::tempdir().unwrap();
            let expected = make(dir.path(), config.clone());
            let [base, adapter, out] = ["base", "adapter", "out"].map(|name| dir.path().join(name));
            assert!(merge_into(&base, &adapter, &out, &Device::flex()).unwrap().untied, "{config:?}");
            let model = Llama::from_dir(&out, None, &Device::flex()).unwrap();
            assert!(!model.config().tie_word_embeddings);
            close(&logits(&model), &expected);
            assert!(std::fs::read_to_string(out.join("config.json")).unwrap().contains("unknown_key"));
        }
    }

    #[test]
    fn a_model_in_memory_merges_as_the_directory_does_and_unmerges_to_what_it_was() {
        let rows = Some(peft_burn::TokenIndices::List(vec![5, 20]));
        let saved = |name: &str| LoraConfig { modules_to_save: Some(vec![name.into()]), ..lora(&["q_proj"]) };
        for (config, untied) in [
            (lora(&["lm_head"]), true),
            (lora(&["embed_tokens"]), true),
            (saved("lm_head"), true),
            (saved("embed_tokens"), true),
            (LoraConfig { trainable_token_indices: rows.clone(), ..lora(&["q_proj"]) }, false),
        ]
        .into_iter()
        .map(|(config, untied)| (PeftConfig::from(config), untied))
        .chain(every_method(&["lm_head"]).map(|config| (config, true)))
        {
            let dir = tempfile::tempdir().unwrap();
            let expected = make(dir.path(), config.clone());
            let mut model = Llama::from_dir(dir.path().join("base"), None, &Device::flex()).unwrap();
            model.load_adapter(dir.path().join("adapter"), "x", false).unwrap();
            let weights = model.named_weights();
            model.merge_adapters(&["x"], true).unwrap();
            close(&logits(&model), &expected);
            model.unmerge_adapters();
            assert_eq!(model.named_weights(), weights, "{config:?}");
            close(&logits(&model), &expected);
            model.merge_and_unload(true).unwrap();
            close(&logits(&model), &expected);
            assert_eq!(model.config().tie_word_embeddings, !untied, "{config:?}");
        }
        // The head's own adapter beside trained rows: for good only, and a refusal changes nothing.
        let dir = tempfile::tempdir().unwrap();
        let expected = make(dir.path(), LoraConfig { trainable_token_indices: rows, ..lora(&["lm_head"]) });
        let mut model = Llama::from_dir(dir.path().join("base"), None, &Device::flex()).unwrap();
        model.load_adapter(dir.path().join("adapter"), "x", false).unwrap();
        let error = model.merge_adapters(&["x"], true).unwrap_err().to_string();
        assert!(error.contains("untie"), "{error}");
        close(&logits(&model), &expected);
        model.merge_and_unload(true).unwrap();
        close(&logits(&model), &expected);
    }

    #[test]
    fn a_merge_that_fails_leaves_the_pair_tied() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), lora(&["lm_head"]));
        let mut model = Llama::from_dir(dir.path().join("base"), None, &Device::flex()).unwrap();
        model.load_adapter(dir.path().join("adapter"), "x", false).unwrap();
        for (_, mut param) in model.adapter_params_mut("x").unwrap() {
            let shape = param.view().shape();
            param.set(TensorData::new(vec![f32::NAN; shape.iter().product()], shape));
        }
        let error = model.merge_and_unload(true).unwrap_err().to_string();
        assert!(error.contains("lm_head"), "{error}");
        assert!(model.config().tie_word_embeddings && model.adapter_names() == ["x"]);
    }

    #[test]
    fn trained_rows_keep_the_pair_tied() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Some(peft_burn::TokenIndices::List(vec![5, 20]));
        let expected = make(dir.path(), LoraConfig { trainable_token_indices: tokens, ..lora(&["q_proj"]) });
        let [base, adapter, out] = ["base", "adapter", "out"].map(|name| dir.path().join(name));
        assert!(!merge_into(&base, &adapter, &out, &Device::flex()).unwrap().untied);
        close(&logits(&Llama::from_dir(&out, None, &Device::flex()).unwrap()), &expected);
    }

    #[test]
    fn what_cannot_be_written_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), LoraConfig { lora_bias: true, ..lora(&["q_proj"]) });
        let [base, adapter, out] = ["base", "adapter", "out"].map(|name| dir.path().join(name));
        let error = merge_into(&base, &adapter, &out, &Device::flex()).unwrap_err().to_string();
        assert!(
            error.contains("model.layers.1.self_attn.q_proj.bias") && error.contains("lora_bias = false"),
            "{error}"
        );
        assert!(!out.exists());
        let error = merge_into(&base, &adapter, &base, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("exists already and is not empty"), "{error}");
    }
}
