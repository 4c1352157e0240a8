//! What an adapter's files are called.

/// The file with an adapter's tensors.
pub const WEIGHTS_NAME: &str = "adapter_model.safetensors";
