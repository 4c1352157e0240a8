//! What an adapter's files are called.

/// Name of the configuration's file in an adapter's directory.
pub const CONFIG_NAME: &str = "adapter_config.json";

/// The file with an adapter's tensors.
pub const WEIGHTS_NAME: &str = "adapter_model.safetensors";
