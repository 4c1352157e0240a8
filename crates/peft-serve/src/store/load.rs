//! From an adapter's files to what the engine applies.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use llama_burn::Llama;
use peft_burn::tensor_file::TensorFile;
use peft_burn::{AdapterBytes, AdapterFiles, AdapterPack, Pairs, PeftModel};

use super::folder::{Files, WEIGHTS_NAME};
use crate::error::ServeError;

/// Models with a pair of VeRA's that are kept, so that adapters with that pair need not draw it again.
const KEPT: usize = 4;

/// Makes packs of adapters' files.
#[derive(Debug)]
pub(super) struct Loader {
    /// The base; on it one adapter for each shared pair that was seen.
    base: Mutex<(Llama, usize)>,
    pairs: Pairs,
}

/// A pack, and what the user should know of its files.
pub(super) struct Loaded {
    pub pack: AdapterPack,
    pub peft_type: String,
    pub warnings: Vec<String>,
}

impl Loader {
    pub fn new(base: Llama) -> Self {
        Self { base: Mutex::new((base, 0)), pairs: Pairs::default() }
    }

    /// The adapter of `files`, for which `reserve` sets the bytes aside that it is about to take: its numbers in f32.
    pub fn load<R>(
        &self,
        files: Files,
        reserve: impl FnOnce(usize) -> Result<R, ServeError>,
        failed: impl Fn(String) -> ServeError,
    ) -> Result<(Loaded, R), ServeError> {
        let weights = TensorFile::from_bytes(files.dir.join(WEIGHTS_NAME), files.weights);
        let weights = weights.map_err(|error| failed(error.to_string()))?;
        let shapes = weights.names().filter_map(|name| weights.shape(name));
        let reserved = reserve(shapes.map(|shape| shape.iter().product::<usize>() * 4).sum())?;
        let loaded = self.attach(&files.dir, &files.config, weights).map_err(failed)?;
        Ok((loaded, reserved))
    }

    fn attach(&self, dir: &Path, config: &[u8], weights: TensorFile) -> Result<Loaded, String> {
        let mut model = self.base.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        let name = format!("served{}", model.adapter_names().len());
        let files = AdapterBytes { dir, config, weights };
        let warnings = model.load_adapter_bytes(files, &name, false).map_err(|error| error.to_string())?;
        let pack = model.pack(&name, &self.pairs).map_err(|error| error.to_string())?;
        let peft_type = model.adapter_config(&name).map(|config| config.peft_type().to_owned()).unwrap_or_default();
        if pack.kin() != 0 {
            let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
            if base.1 != pack.kin() && model.adapter_names().len() <= KEPT {
                *base = (model, pack.kin());
            }
        }
        Ok(Loaded { pack, peft_type, warnings })
    }

    /// Bytes of the pairs that adapters share.
    pub fn shared_bytes(&self) -> usize {
        self.pairs.num_bytes()
    }
}
