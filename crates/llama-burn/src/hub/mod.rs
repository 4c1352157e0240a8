//! Where a model is: a directory, or a repository of the Hugging Face hub (Cargo feature `hub`).

#[cfg(feature = "hub")]
mod dataset;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod files;
#[cfg(feature = "hub")]
mod patience;
#[cfg(all(test, feature = "hub"))]
#[allow(clippy::unwrap_used)]
mod server;
#[cfg(feature = "hub")]
mod settings;

use std::path::{Path, PathBuf};

use crate::error::{HubCause, LlamaError, Result};
use crate::gguf;
#[cfg(feature = "hub")]
pub use settings::Hub;

/// The directory of `model`: an existing directory as it is, and that of a `.gguf` file as [`Llama::from_dir`](crate::Llama::from_dir) reads it; otherwise `model` is a hub id such as
/// `HuggingFaceTB/SmolLM2-135M-Instruct`, and what the model consists of is downloaded, where it is not there yet,
/// into the cache that all Hugging Face programs share. `revision` is a branch, a tag or a commit; `main` without.
///
/// The environment is honoured as by Python's `huggingface_hub`: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`,
/// `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT` (seconds of silence after which a download is given up; 30 without).
///
/// # Errors
/// [`LlamaError::Hub`]: no directory and no hub id, no such model, files missing from it, the hub out of reach and
/// the model not in the cache; or this build is without the feature `hub`.
pub fn resolve(model: &str, revision: Option<&str>) -> Result<PathBuf> {
    match local(model)? {
        Some(dir) => Ok(dir),
        None => download(model, revision),
    }
}

/// Files of the data set `name` on the hub, in the cache: those that `wanted` chooses from the names of all of its files.
/// `revision` is a branch, a tag or a commit; `main` without. The environment is honoured as by [`resolve`].
///
/// # Errors
/// [`LlamaError::HubDataset`]: no such data set, no file that is wanted, the hub out of reach and the files not in the cache; or
/// this build is without the feature `hub`.
pub fn resolve_dataset(
    name: &str,
    revision: Option<&str>,
    wanted: impl Fn(&[String]) -> Vec<String>,
) -> Result<Vec<PathBuf>> {
    download_dataset(name, revision, wanted)
}

/// Whether `name` looks like a data set of the hub: `owner/name`.
pub fn is_dataset_id(name: &str) -> bool {
    name.contains('/') && is_hub_id(name)
}

#[cfg(feature = "hub")]
fn download_dataset(
    name: &str,
    revision: Option<&str>,
    wanted: impl Fn(&[String]) -> Vec<String>,
) -> Result<Vec<PathBuf>> {
    Hub::from_env().fetch_dataset(name, revision.unwrap_or("main"), wanted)
}

#[cfg(not(feature = "hub"))]
fn download_dataset(
    name: &str,
    _revision: Option<&str>,
    _wanted: impl Fn(&[String]) -> Vec<String>,
) -> Result<Vec<PathBuf>> {
    let message = "there is no such file or directory, and this build cannot fetch data sets from the Hugging Face hub; \
                   build it with `--features hub`, or download the files and give their directory";
    Err(LlamaError::HubDataset { name: name.to_string(), cause: HubCause::NotCompiled, message: message.to_string() })
}

#[cfg(feature = "hub")]
fn download(model: &str, revision: Option<&str>) -> Result<PathBuf> {
    Hub::from_env().fetch(model, revision.unwrap_or("main"))
}

#[cfg(not(feature = "hub"))]
fn download(model: &str, _revision: Option<&str>) -> Result<PathBuf> {
    let message = "there is no such directory, and this build cannot fetch models from the Hugging Face hub; build it \
                   with the Cargo feature `hub`, or download the model and give its directory";
    Err(hub_error(model, HubCause::NotCompiled, message))
}

/// The directory, `None` for a hub id, an error for what is neither.
fn local(model: &str) -> Result<Option<PathBuf>> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(Some(path.to_path_buf()));
    }
    if path.exists() {
        let is_gguf = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        return match is_gguf {
            true => gguf::directory(path).map(Some),
            false => Err(hub_error(
                model,
                HubCause::NotAModel,
                "a model is a directory with config.json and model.safetensors, or a .gguf file, but this is another file",
            )),
        };
    }
    if is_hub_id(model) {
        return Ok(None);
    }
    Err(hub_error(
        model,
        HubCause::NoSuchPath,
        "there is no such directory (and it is no hub id, which looks like owner/name)",
    ))
}

/// `name` or `owner/name`, each of the characters that the hub allows.
fn is_hub_id(model: &str) -> bool {
    let good = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.contains("..")
    };
    model.len() <= 96 && model.split('/').count() <= 2 && model.split('/').all(good)
}

fn hub_error(model: &str, cause: HubCause, message: impl Into<String>) -> LlamaError {
    LlamaError::Hub { model: model.to_string(), cause, message: message.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_directory_is_used_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(resolve(dir.path().to_str().unwrap(), None).unwrap(), dir.path());
    }

    #[test]
    fn what_is_neither_directory_nor_hub_id_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.bin");
        std::fs::write(&file, "").unwrap();
        let error = resolve(file.to_str().unwrap(), None).unwrap_err().to_string();
        assert!(error.contains("but this is another file"), "{error}");
        for model in ["", "./models/mine", "/no/such/model", "a/b/c", "owner/..", "name with space", "../x"] {
            let error = resolve(model, None).unwrap_err().to_string();
            assert!(error.contains(&format!("model {model:?}: there is no such directory (and")), "{error}");
        }
    }

    #[test]
    fn hub_ids_are_told_from_paths() {
        assert!(is_hub_id("HuggingFaceTB/SmolLM2-135M-Instruct"));
        assert!(is_hub_id("gpt2"));
        assert!(!is_hub_id("runs/mine/adapter"));
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_the_error_says_how_to_get_it() {
        let error = resolve("owner/name", None).unwrap_err().to_string();
        assert!(error.contains("Cargo feature `hub`"), "{error}");
    }
}
