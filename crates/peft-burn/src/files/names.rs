//! The names of an adapter's files.

/// Name of the configuration's file in an adapter's directory.
pub const CONFIG_NAME: &str = "adapter_config.json";

/// The file with an adapter's tensors.
pub const WEIGHTS_NAME: &str = "adapter_model.safetensors";

/// The same file of `torch.save`, which PEFT writes with `safe_serialization=False` and wrote in older releases.
pub(super) const OLDER_WEIGHTS_NAME: &str = "adapter_model.bin";
