//! The layers of a model's AdaLoRA adapter.

use crate::error::{Result, Unsupported};
use crate::methods::{AdaLora, AdaLoraConfig, Method, PeftConfig};
use crate::model::PeftModel;

/// The layers of the AdaLoRA adapter `name` by path, and its configuration.
///
/// # Errors
/// A name that is not attached, or an adapter of another method.
pub(super) fn layers<'a, M: PeftModel>(
    model: &'a M,
    name: &str,
) -> Result<(&'a AdaLoraConfig, Vec<(String, &'a AdaLora)>)> {
    let config = match model.adapter_config(name)? {
        PeftConfig::AdaLora(config) => config,
        other => {
            let (adapter, peft_type) = (name.to_owned(), other.peft_type());
            return Err(Unsupported::NotAdaLora { adapter, peft_type }.into());
        }
    };
    let found = model.layers().into_iter().filter_map(|(path, layer)| {
        match layer.linear()?.adapters().get(name)?.method.as_ref()? {
            Method::AdaLora(adalora) => Some((path, adalora)),
            _ => None,
        }
    });
    Ok((config, found.collect()))
}

/// As [`layers`], to change.
pub(super) fn layers_mut<'a, M: PeftModel>(model: &'a mut M, name: &str) -> Vec<&'a mut AdaLora> {
    let found = model.layers_mut().into_iter().filter_map(|(_, layer)| {
        match layer.linear()?.adapters_mut().get_mut(name)?.method.as_mut()? {
            Method::AdaLora(adalora) => Some(adalora),
            _ => None,
        }
    });
    found.collect()
}
