//! A GGUF file as a model directory.
//!
//! The model's other files (`config.json`, `tokenizer.json`, …) are worked out once and kept in the user's folder for
//! such things; the weights stay where they are, and a note in the folder says where that is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use peft_burn::tensor_file::write_atomic;
use serde_json::{Value as Json, json};

use super::reader::Gguf;
use super::{config, tokenizer};
use crate::error::{LlamaError, Result};
use crate::user_cache::user_cache;

/// The note that says where the weights are.
const NOTE: &str = "gguf.json";
/// Counts up when what is written changes.
const VERSION: u32 = 2;

/// The folder that stands for `path`: a GGUF file's is made where it is not there yet; any other path is its own.
///
/// # Errors
/// A file that is no GGUF, or one of a model that is not supported.
pub(crate) fn directory(path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        return Ok(path.to_owned());
    }
    let file = std::fs::canonicalize(path).map_err(LlamaError::io(path))?;
    let stamp = stamp(&file)?;
    let mut hash = DefaultHasher::new();
    (VERSION, env!("CARGO_PKG_VERSION"), &file, stamp.to_string()).hash(&mut hash);
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let dir = cache().join(format!("{name}-{:016x}", hash.finish()));
    if !dir.join(NOTE).exists() {
        unpack_gguf(&file, &dir)?;
    }
    Ok(dir)
}

/// Makes `dir` the model directory of the GGUF file `file`, as Hugging Face lays one out: configuration, tokenizer and template.
/// The weights stay in `file`, which must remain as and where it is. (A GGUF file that is given as a model needs none of this.)
///
/// # Errors
/// A file that is no GGUF, or one of a model that is not supported; a folder that cannot be written to.
pub fn unpack_gguf(file: impl AsRef<Path>, dir: impl AsRef<Path>) -> Result<()> {
    let (file, dir) = (file.as_ref(), dir.as_ref());
    let file = std::fs::canonicalize(file).map_err(LlamaError::io(file))?;
    let stamp = stamp(&file)?;
    let file = Gguf::open(&file)?;
    let config = config::read(&file)?.config;
    let text = tokenizer::read(&file)?;
    std::fs::create_dir_all(dir).map_err(LlamaError::io(dir))?;
    let put =
        |name: &str, json: &Json| -> Result<()> { Ok(write_atomic(dir.join(name), format!("{json:#}\n").as_bytes())?) };
    put("config.json", &config)?;
    if let Some(text) = text {
        write_atomic(dir.join("tokenizer.json"), text.tokenizer.to_string().as_bytes())?;
        put("tokenizer_config.json", &text.config)?;
    }
    // Last: a folder with the note is whole.
    put(NOTE, &json!({"file": file.path(), "stamp": stamp}))
}

/// The GGUF file that holds the weights of the directory `dir`, if it is one of [`directory`]'s.
///
/// # Errors
/// A file that was changed or removed since.
pub(crate) fn weights_of(dir: &Path) -> Result<Option<PathBuf>> {
    let note = dir.join(NOTE);
    let text = match std::fs::read_to_string(&note) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LlamaError::io(note)(error)),
    };
    let json: Json = serde_json::from_str(&text).map_err(LlamaError::json(&note))?;
    let file = PathBuf::from(json["file"].as_str().unwrap_or_default());
    if stamp(&file)? != json["stamp"] {
        let message = "it was changed since the folder was made; give the .gguf file itself again".into();
        return Err(LlamaError::Gguf { path: file, message });
    }
    Ok(Some(file))
}

/// The size of a file and the time of its last change.
fn stamp(file: &Path) -> Result<Json> {
    let data = std::fs::metadata(file).map_err(LlamaError::io(file))?;
    let age = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(json!([data.len(), age.as_nanos().to_string()]))
}

/// The user's folder for what can be made again.
fn cache() -> PathBuf {
    let dir = user_cache().unwrap_or_else(|| std::env::temp_dir().join("peft-burn")).join("gguf");
    // A home that cannot be written to, as some services have.
    if std::fs::create_dir_all(&dir).is_ok() { dir } else { std::env::temp_dir().join("peft-burn-gguf") }
}
