//! Adapters of other programs and older releases as PEFT writes them today.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::mlx;
use super::names::{CONFIG_NAME, WEIGHTS_NAME};
use super::rewritten::Rewritten;
use super::weights::AdapterWeights;
use crate::config::Object;
use crate::error::{PeftError, Result};
use crate::methods::PeftConfig;
use crate::tensor_file::write_tensors;

/// Writes the adapter in the folder `dir` to the folder `output` as PEFT writes one: tensors in `adapter_model.safetensors`
/// under PEFT's names. Read are adapters of mlx-lm, of vLLM, of older releases of PEFT, and such in `adapter_model.bin`. The
/// tensors' values stay as they are.
///
/// # Errors
/// Files that cannot be read, tensors that mean nothing in an adapter, all of them at once; a file that cannot be written.
pub fn rewrite_adapter(dir: impl AsRef<Path>, output: impl AsRef<Path>) -> Result<Rewritten> {
    let (dir, output) = (dir.as_ref(), output.as_ref());
    let path = dir.join(CONFIG_NAME);
    let text = fs::read(&path).map_err(PeftError::io(&path))?;
    let object: Object = serde_json::from_slice(&text).map_err(|source| PeftError::Json { path, source })?;
    let rewritten = if mlx::is_mlx(&object) { mlx::read(dir, &object)? } else { of_peft(dir)? };
    fs::create_dir_all(output).map_err(PeftError::io(output))?;
    write_tensors(output.join(WEIGHTS_NAME), &rewritten.tensors, &[])?;
    rewritten.config.save(output)?;
    Ok(rewritten)
}

/// An adapter whose configuration is PEFT's.
fn of_peft(dir: &Path) -> Result<Rewritten> {
    let (config, mut warnings) = PeftConfig::from_dir(dir)?;
    let weights = AdapterWeights::open(dir, &config)?;
    warnings.extend(weights.warnings());
    let known = |name: &str| name.starts_with("base_model.model.") || config.tensors_of_no_module().contains(&name);
    let strangers = weights.names().filter(|name| !known(name)).map(|name| weights.stored_name(name).to_owned());
    let unexpected: Vec<String> = strangers.chain(weights.problems().iter().cloned()).collect();
    if !unexpected.is_empty() {
        let path = weights.path().to_owned();
        let (missing, misshapen, non_finite) = (Vec::new(), Vec::new(), Vec::new());
        return Err(PeftError::Tensors { path, missing, unexpected, misshapen, non_finite });
    }
    let tensors =
        weights.names().map(|name| Ok((name.to_owned(), weights.stored(name)?))).collect::<Result<BTreeMap<_, _>>>()?;
    Ok(Rewritten { from: "PEFT", config, tensors, warnings })
}
