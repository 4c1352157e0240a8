//! The families of models that PEFT has default targets for.

/// Their `model_type`s: those of PEFT's tables (`peft/utils/constants.py`) whose layers have Llama's names.
pub(crate) const KNOWN: &[&str] = &["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"];
