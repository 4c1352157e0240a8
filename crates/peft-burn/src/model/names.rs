//! Where a model is, and what its tensors are called in files.

use burn::module::Module;

/// A device that the model is on.
pub(crate) fn device_of<M: Module>(model: &M) -> burn::tensor::Device {
    model.devices().into_iter().next().unwrap_or_default()
}

/// PEFT's name of a tensor: every adapted model lies two levels below its `PeftModel`.
pub(crate) fn file_key(path: &str, suffix: &str) -> String {
    format!("base_model.model.{path}.{suffix}")
}
