//! Adapters on disk, as Hugging Face PEFT writes and reads them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};

use crate::adalora::cut_to_live;
use crate::combine::as_plain_lora;
use crate::config::InitLoraWeights;
use crate::error::{PeftError, Result, Unsupported};
use crate::layers::layer::LayerRef;
use crate::methods::PeftConfig;
use crate::model::{PeftModel, file_key, shared_pair_of, tied_pair, transposed};
use crate::modules::ModuleKind;
use crate::random::undrawn;
use crate::targets::Resolution;
use crate::tensor_file::{TensorFile, write_tensors};

mod base_note;
mod config;
mod fill;
mod fit;
mod inspect;
mod mlx;
mod names;
mod rewrite;
mod rewritten;
mod saved_config;
mod spelling;
mod weights;

use fill::fill;
use fit::fit;
use weights::AdapterWeights;

pub use inspect::{AdaptedModule, AdapterSummary};
pub use names::{CONFIG_NAME, WEIGHTS_NAME};
pub use rewrite::rewrite_adapter;
pub use rewritten::Rewritten;

/// Saving and loading adapters. Implemented for every [`PeftModel`].
pub trait AdapterFiles: PeftModel {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `dir`.
    ///
    /// # Errors
    /// A name that is not attached, an adapter begun by a random decomposition of the base (`pissa_niter_N`), which nobody could
    /// make again, or a file that cannot be written: each file is whole or absent.
    fn save_adapter(&self, name: &str, dir: impl AsRef<Path>) -> Result<()> {
        let contents = self.adapter_contents(name)?;
        if let Some((init @ InitLoraWeights::PissaNiter(_), _)) = contents.0.origin() {
            let (adapter, init) = (name.to_owned(), serde_json::json!(init).to_string());
            return Err(Unsupported::RandomResidual { adapter, init }.into());
        }
        write(contents, &base_note::note_of(self), dir.as_ref())
    }

    /// As [`Self::save_adapter`], but an adapter that keeps a part of the base (PiSSA, OLoRA) is written as the plain LoRA of
    /// twice the rank that computes the same on the unchanged base (PEFT's `path_initial_model_for_weight_conversion`).
    ///
    /// # Errors
    /// A name that is not attached, or a file that cannot be written: each file is whole or absent.
    fn save_adapter_as_lora(&self, name: &str, dir: impl AsRef<Path>) -> Result<()> {
        let contents = as_plain_lora(self, name, self.adapter_contents(name)?)?;
        write(contents, &base_note::note_of(self), dir.as_ref())
    }

    /// The contents of an adapter's two files: its configuration, and its tensors in f32.
    ///
    /// # Errors
    /// A name that is not attached.
    fn adapter_contents(&self, name: &str) -> Result<(PeftConfig, BTreeMap<String, TensorData>)> {
        let mut config = self.adapter_config(name)?.clone();
        let params = self.adapter_params(name)?.into_iter();
        let mut tensors: BTreeMap<_, _> =
            params.map(|(key, param)| (key, param.to_data().convert_dtype(DType::F32))).collect();
        tensors.extend(repeats(self, name, &tensors));
        cut_to_live(self, name, &mut config, &mut tensors)?;
        if config.saves_pair() {
            let names = config.tensors_of_no_module().iter().map(|name| (*name).to_owned());
            let pair = shared_pair_of(self, name).map(|pair| pair.tensors().map(Tensor::into_data));
            tensors.extend(names.zip(pair.into_iter().flatten()));
        }
        Ok((config, tensors))
    }

    /// Reads an adapter directory into a new adapter `name` and makes it the active one. It is frozen unless
    /// `trainable` (PEFT's `is_trainable`). Returns what the user should know.
    ///
    /// The tensors decide, not how the adapter was once made: any `init_lora_weights` loads, names of other architectures
    /// among the targets are a warning, and an embedding or head beside the adapter is used as a trained copy, also with
    /// another number of rows.
    ///
    /// # Errors
    /// Anything that does not fit, all of it at once, before the model changes: tensors that are missing, unexpected,
    /// of another shape, or not finite; copies of another base; features that would make the tensors mean something else.
    fn load_adapter(&mut self, dir: impl AsRef<Path>, name: &str, trainable: bool) -> Result<Vec<String>> {
        let dir = dir.as_ref();
        let (config, warnings) = PeftConfig::from_dir(dir)?;
        let weights = AdapterWeights::open(dir, &config)?;
        load_parts(self, config, &weights, warnings, name, trainable)
    }

    /// As [`Self::load_adapter`], of files that are in memory: others may change those on disk meanwhile.
    ///
    /// # Errors
    /// As [`Self::load_adapter`].
    fn load_adapter_bytes(&mut self, files: AdapterBytes<'_>, name: &str, trainable: bool) -> Result<Vec<String>> {
        let AdapterBytes { dir, config, weights } = files;
        let (config, warnings) = PeftConfig::from_json(config, dir.join(CONFIG_NAME))?;
        let weights = AdapterWeights::of(weights, &config)?;
        load_parts(self, config, &weights, warnings, name, trainable)
    }

    /// Puts the adapter of a directory in the place of the attached `name`, of whatever method and rank either is (PEFT's
    /// `hotswap_adapter`, there for LoRA alone). What was active and trained stays so. Returns what the user should know.
    ///
    /// # Errors
    /// A name that is not attached, or one that is merged; otherwise as [`Self::load_adapter`]. The old adapter is then
    /// still there.
    fn hotswap_adapter(&mut self, dir: impl AsRef<Path>, name: &str) -> Result<Vec<String>> {
        let mut swapped = self.clone();
        let trainable = self.peft_state().is_trainable(name);
        swapped.delete_adapter(name)?;
        let active = self.active_adapters().to_vec();
        let warnings = swapped.load_adapter(dir, name, trainable)?;
        swapped.set_adapter(&active.iter().map(String::as_str).collect::<Vec<_>>())?;
        *self = swapped;
        Ok(warnings)
    }
}

/// Attaches what `config` and `weights` hold as the adapter `name`.
fn load_parts<M: PeftModel>(
    model: &mut M,
    config: PeftConfig,
    weights: &AdapterWeights,
    mut warnings: Vec<String>,
    name: &str,
    trainable: bool,
) -> Result<Vec<String>> {
    let fit = fit(model, &config, weights, trainable)?;
    // A tied head has as many rows as the embedding that trained rows bring.
    let Resolution { tied, own_vocabularies, .. } = &fit.resolution;
    let tied = *tied || (!own_vocabularies.is_empty() && tied_pair(model).is_some());
    let mut loaded = model.clone();
    warnings.extend(weights.warnings());
    warnings.extend(base_note::warning(model, weights.path(), weights.metadata()));
    // Every value comes from the file.
    warnings.extend(undrawn(|| loaded.attach(name, fit.resolution, 0, trainable))?);
    loaded.peft_state_mut().set_config(name, fit.config);
    fill(&mut loaded, name, weights, &fit.by_token, &fit.repeated, tied)?;
    *model = loaded;
    Ok(warnings)
}

/// The tensors of a head that an adapter trains as one with the embedding: PEFT writes them twice.
fn repeats<M: PeftModel>(
    model: &M,
    name: &str,
    tensors: &BTreeMap<String, TensorData>,
) -> BTreeMap<String, TensorData> {
    let head = model.modules().into_iter().find(|module| module.kind == ModuleKind::OutputHead);
    let tied = |layer: LayerRef<'_>| match layer {
        LayerRef::Embedding(layer) => layer.adapters().get(name).is_some_and(|adapter| adapter.tied),
        LayerRef::Linear(_) | LayerRef::Norm(_) => false,
    };
    let embedding = model.layers().into_iter().find(|(_, layer)| tied(*layer));
    let (Some(head), Some((path, _))) = (head, embedding) else { return BTreeMap::new() };
    let names = [("weight", "weight"), ("lora_embedding_A", "lora_B.weight"), ("lora_embedding_B", "lora_A.weight")];
    let repeat = |(own, other): (&str, &str)| {
        let data = tensors.get(&file_key(&path, own))?.clone();
        Some((file_key(&head.path, other), if own == "weight" { data } else { transposed(data) }))
    };
    names.into_iter().filter_map(repeat).collect()
}

/// The two files of an adapter, in memory.
#[derive(Debug)]
pub struct AdapterBytes<'a> {
    /// The folder, which errors name.
    pub dir: &'a Path,
    /// `adapter_config.json`.
    pub config: &'a [u8],
    /// `adapter_model.safetensors`.
    pub weights: TensorFile,
}

impl<M: PeftModel> AdapterFiles for M {}

/// Writes the two files of an adapter.
fn write(
    (config, tensors): (PeftConfig, BTreeMap<String, TensorData>),
    notes: &[(&str, String)],
    dir: &Path,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(PeftError::io(dir))?;
    write_tensors(dir.join(WEIGHTS_NAME), &tensors, notes)?;
    config.save(dir)
}
