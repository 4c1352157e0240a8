//! The files that go with the weights of a model.

use std::path::Path;

use peft_burn::tensor_file::write_atomic;

use crate::error::{LlamaError, Result};
use crate::text::adapter::{TEMPLATE, TOKENIZER};

/// The files that go with the weights of a model beside its files of text, where it has them.
const BESIDE: &[&str] = &["generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE"];
/// A folder of further templates.
const TEMPLATES: &str = "additional_chat_templates";

/// Writes what goes with the weights of `base` under `adapter` into the folder `part`: `config.json` with other values for the
/// keys `changed` (null takes a key out), and the files of text.
pub(crate) fn write_beside(
    base: &Path,
    adapter: &Path,
    part: &Path,
    changed: Vec<(&str, serde_json::Value)>,
) -> Result<()> {
    let has = |dir: &Path, names: &[&str]| names.iter().any(|name| dir.join(name).exists());
    let tokenizer = if has(adapter, &["tokenizer.json", "tokenizer.model"]) { adapter } else { base };
    let template = if has(adapter, TEMPLATE) || adapter.join(TEMPLATES).exists() { adapter } else { base };
    let copy = |dir: &Path, name: &str| {
        let (from, to) = (dir.join(name), part.join(name));
        if from.exists() { std::fs::copy(&from, &to).map(|_| ()).map_err(LlamaError::io(&to)) } else { Ok(()) }
    };
    BESIDE.iter().try_for_each(|name| copy(base, name))?;
    TOKENIZER.iter().try_for_each(|name| copy(tokenizer, name))?;
    // A template in the adapter's tokenizer_config.json is not to be overruled by the base's file.
    if template == adapter || !names_template(&tokenizer.join("tokenizer_config.json")) || tokenizer == base {
        TEMPLATE.iter().try_for_each(|name| copy(template, name))?;
        copy_folder(&template.join(TEMPLATES), &part.join(TEMPLATES))?;
    }
    let path = base.join("config.json");
    let mut config = std::fs::read(&path).map_err(LlamaError::io(&path))?;
    let mut json: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&config).map_err(LlamaError::json(&path))?;
    let before = json.clone();
    for (key, value) in changed {
        if value.is_null() {
            json.shift_remove(key)
        } else {
            json.insert(key.to_owned(), value)
        };
    }
    if json != before {
        config = format!("{:#}\n", serde_json::Value::Object(json)).into_bytes();
    }
    Ok(write_atomic(part.join("config.json"), &config)?)
}

/// Whether a `tokenizer_config.json` holds a chat template.
fn names_template(config: &Path) -> bool {
    let json = std::fs::read(config).ok().and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
    json.is_some_and(|json| json.get("chat_template").is_some_and(|template| !template.is_null()))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(to).map_err(LlamaError::io(to))?;
    for entry in std::fs::read_dir(from).map_err(LlamaError::io(from))? {
        let path = entry.map_err(LlamaError::io(from))?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            std::fs::copy(&path, to.join(name)).map_err(LlamaError::io(&path))?;
        }
    }
    Ok(())
}
