//! Adapters on disk, as Hugging Face PEFT writes and reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};

use crate::adalora::cut_to_live;
use crate::error::{PeftError, Result};
use crate::methods::PROJECTION_NAMES;
use crate::methods::PeftConfig;
use crate::model::{PeftModel, projection_of, set_projection};
use crate::targets::resolve_saved;
use crate::tensor_file::{TensorFile, write_tensors};

mod config;
mod inspect;
mod names;

pub use inspect::{AdaptedModule, AdapterSummary};
pub use names::{CONFIG_NAME, WEIGHTS_NAME};

/// Saving and loading adapters. Implemented for every [`PeftModel`].
pub trait AdapterFiles: PeftModel {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `dir`.
    ///
    /// # Errors
    /// A name that is not attached, or a file that cannot be written: each file is whole or absent.
    fn save_adapter(&self, name: &str, dir: &Path) -> Result<()> {
        let (config, tensors) = self.adapter_contents(name)?;
        std::fs::create_dir_all(dir).map_err(PeftError::io(dir))?;
        write_tensors(&dir.join(WEIGHTS_NAME), &tensors, &[])?;
        config.save(dir)
    }

    /// What the two files of an adapter hold: its configuration, and its tensors in f32.
    ///
    /// # Errors
    /// A name that is not attached.
    fn adapter_contents(&self, name: &str) -> Result<(PeftConfig, BTreeMap<String, TensorData>)> {
        let mut config = self.adapter_config(name)?.clone();
        let params = self.adapter_params(name)?.into_iter();
        let mut tensors: BTreeMap<_, _> =
            params.map(|(key, param)| (key, param.to_data().convert_dtype(DType::F32))).collect();
        match &mut config {
            PeftConfig::AdaLora(adalora) => cut_to_live(self, name, adalora, &mut tensors)?,
            PeftConfig::Vera(vera) if vera.save_projection => {
                let pair = projection_of(self, name).map(|p| p.tensors().map(Tensor::into_data));
                tensors.extend(PROJECTION_NAMES.map(str::to_owned).into_iter().zip(pair.into_iter().flatten()));
            }
            _ => {}
        }
        Ok((config, tensors))
    }

    /// Reads an adapter directory into a new adapter `name` and makes it the active one. It is frozen unless
    /// `trainable` (PEFT's `is_trainable`). Returns what the user should know.
    ///
    /// # Errors
    /// Anything that does not fit, all of it at once, before the model changes: tensors that are missing, unexpected,
    /// of another shape, or not finite; names in the configuration that match nothing here.
    fn load_adapter(&mut self, dir: &Path, name: &str, trainable: bool) -> Result<Vec<String>> {
        let (config, mut warnings) = PeftConfig::from_dir(dir)?;
        let resolution = resolve_saved(&config, &self.modules(), self.model_type())?;
        let file = TensorFile::open(&dir.join(WEIGHTS_NAME))?;
        let mut loaded = self.clone();
        warnings.extend(loaded.attach(name, resolution, 0, trainable)?);
        loaded.fill(name, &file)?;
        *self = loaded;
        Ok(warnings)
    }

    /// Puts the adapter of a directory in the place of the attached `name`, of whatever method and rank either is (PEFT's
    /// `hotswap_adapter`, there for LoRA alone). What was active and trained stays so. Returns what the user should know.
    ///
    /// # Errors
    /// A name that is not attached, or one that is merged; otherwise as [`Self::load_adapter`]. The old adapter is then
    /// still there.
    fn hotswap_adapter(&mut self, dir: &Path, name: &str) -> Result<Vec<String>> {
        let mut swapped = self.clone();
        let trainable = self.peft_state().is_trainable(name);
        swapped.delete_adapter(name)?;
        let active = self.active_adapters().to_vec();
        let warnings = swapped.load_adapter(dir, name, trainable)?;
        swapped.set_adapter(&active.iter().map(String::as_str).collect::<Vec<_>>())?;
        *self = swapped;
        Ok(warnings)
    }

    #[doc(hidden)]
    fn fill(&mut self, name: &str, file: &TensorFile) -> Result<()> {
        let (mut missing, mut misshapen, mut non_finite) = (Vec::new(), Vec::new(), Vec::new());
        let mut known = BTreeSet::new();
        let mut values = BTreeMap::new();
        let params = self.adapter_params(name)?;
        let mut expected: Vec<_> = params.into_iter().map(|(key, param)| (key, param.shape())).collect();
        expected.extend(projection_shapes(self, name)?);
        for (key, shape) in expected {
            match file.shape(&key) {
                None => missing.push(key.clone()),
                Some(found) if found != shape => misshapen.push(format!("{key} is {found:?}, expected {shape:?}")),
                Some(_) => {
                    let data = file.read(&key)?.convert_dtype(DType::F32);
                    if data.iter::<f32>().any(|v| !v.is_finite()) {
                        non_finite.push(key.clone());
                    }
                    values.insert(key.clone(), data);
                }
            }
            known.insert(key);
        }
        // PEFT stores the base's whole embedding beside an adapter on it; the base has it already.
        let spare = |key: &str| key.ends_with("embed_tokens.base_layer.weight");
        let unexpected: Vec<String> =
            file.names().filter(|n| !known.contains(*n) && !spare(n)).map(str::to_owned).collect();
        if !(missing.is_empty() && misshapen.is_empty() && unexpected.is_empty() && non_finite.is_empty()) {
            return Err(PeftError::Tensors {
                path: file.path().to_owned(),
                missing,
                unexpected,
                misshapen,
                non_finite,
            });
        }
        if let [Some(a), Some(b)] = PROJECTION_NAMES.map(|name| values.remove(name)) {
            set_projection(self, name, [a, b]);
        }
        for (key, mut param) in self.adapter_params_mut(name)? {
            if let Some(data) = values.remove(&key) {
                param.set(data);
            }
        }
        Ok(())
    }
}

impl<M: PeftModel> AdapterFiles for M {}

/// VeRA's pair with its shapes, if the adapter's configuration says that the file holds it.
fn projection_shapes<M: PeftModel>(model: &M, name: &str) -> Result<Vec<(String, Vec<usize>)>> {
    let saved = matches!(model.adapter_config(name)?, PeftConfig::Vera(vera) if vera.save_projection);
    let projection = projection_of(model, name).filter(|_| saved);
    let shapes = projection.map(|p| p.tensors().map(|t| t.dims().to_vec()));
    Ok(shapes.map(|shapes| PROJECTION_NAMES.map(str::to_owned).into_iter().zip(shapes).collect()).unwrap_or_default())
}
