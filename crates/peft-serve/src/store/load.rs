//! From an adapter's files to what the engine applies.

use std::sync::{Mutex, PoisonError};

use llama_burn::Llama;
use peft_burn::tensor_file::TensorFile;
use peft_burn::{AdapterBytes, AdapterFiles, AdapterPack, Pairs, PeftModel};

use super::folder::Files;

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

    /// About the bytes that a pack of these files takes: its numbers in f32.
    pub fn estimate(files: &Files) -> Result<usize, String> {
        let file = TensorFile::from_bytes(&files.dir, files.weights.clone()).map_err(|error| error.to_string())?;
        let sizes = file.names().filter_map(|name| file.shape(name));
        Ok(sizes.map(|shape| shape.iter().product::<usize>() * 4).sum())
    }

    pub fn load(&self, files: Files) -> Result<Loaded, String> {
        let mut model = self.base.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        let name = format!("served{}", model.adapter_names().len());
        let files = AdapterBytes { dir: &files.dir, config: &files.config, weights: files.weights };
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
