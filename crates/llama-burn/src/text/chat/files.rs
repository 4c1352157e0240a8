//! Where a model directory keeps its chat templates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{LlamaError, Result, TemplateError};

/// The folder of further templates, each of which is named by its file.
const FOLDER: &str = "additional_chat_templates";
/// The template that is used unless another one is asked for.
pub(super) const DEFAULT: &str = "default";

/// The sources of a directory's templates by name. As in Transformers, `chat_template.jinja` and the folder come before
/// `tokenizer_config.json`; the `chat_template.json` of processors comes last.
pub(super) fn find(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut add = |name: String, source: String| {
        found.entry(name).or_insert(source);
    };
    if let Some(source) = text(&dir.join("chat_template.jinja"))? {
        add(DEFAULT.to_string(), source);
    }
    for (name, path) in folder(&dir.join(FOLDER))? {
        if let Some(source) = text(&path)? {
            add(name, source);
        }
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let path = dir.join(name);
        if let Some(json) = text(&path)? {
            let json: Value = serde_json::from_str(&json).map_err(LlamaError::json(&path))?;
            named(&json, &path)?.into_iter().for_each(|(name, source)| add(name, source));
        }
    }
    Ok(found)
}

fn text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LlamaError::io(path)(error)),
    }
}

fn folder(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LlamaError::io(path)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(LlamaError::io(path))?.path();
        if let (Some("jinja"), Some(name)) =
            (path.extension().and_then(|end| end.to_str()), path.file_stem().and_then(|name| name.to_str()))
        {
            files.push((name.to_string(), path.clone()));
        }
    }
    Ok(files)
}

/// `chat_template` of a JSON file: a string, a list of `{"name", "template"}`, or an object of templates by name.
fn named(json: &Value, path: &Path) -> Result<Vec<(String, String)>> {
    fn fail<T>(path: &Path, what: &Value) -> Result<T> {
        let message =
            format!("{}: chat_template must be a string or a list of named templates, but is {what}", path.display());
        Err(TemplateError::Malformed { message }.into())
    }
    let pair = |template: &Value| {
        Some((template.get("name")?.as_str()?.to_string(), template.get("template")?.as_str()?.to_string()))
    };
    match json.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![(DEFAULT.to_string(), source.clone())]),
        Some(Value::Array(list)) => {
            list.iter().map(|template| pair(template).map_or_else(|| fail(path, template), Ok)).collect()
        }
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, source)| {
                source.as_str().map_or_else(|| fail(path, source), |s| Ok((name.clone(), s.to_string())))
            })
            .collect(),
        Some(other) => fail(path, other),
    }
}
