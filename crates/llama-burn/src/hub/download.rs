//! Downloading from the hub into the shared cache.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::ProgressBar;

use super::files::{CONFIG, OPTIONAL, WEIGHTS, is_index, missing};
use super::hub_error;
use super::patience::{Watched, within};
use super::settings::Hub;
use crate::error::{HubCause, LlamaError, Result};
use crate::weights::{SINGLE, shards};

impl Hub {
    /// The directory of a model's files at `revision`, downloaded where they are not in the cache yet. Where the hub
    /// cannot be reached, the copy in the cache is used.
    ///
    /// # Errors
    /// [`LlamaError::Hub`], as [`resolve`](super::resolve).
    pub fn fetch(&self, model: &str, revision: &str) -> Result<PathBuf> {
        if self.offline {
            return self.cached(model, revision).map_err(|why| {
                let message = format!("HF_HUB_OFFLINE is set, and {why}; unset it once to download the model");
                hub_error(model, HubCause::Offline, message)
            });
        }
        let failed = |error: ApiError| hub_error(model, cause_of(&error), self.explain(&error));
        let cache = Cache::new(self.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone()).with_endpoint(self.endpoint.clone());
        let api = api.with_token(self.token.clone()).build().map_err(failed)?;
        let branch = Repo::with_revision(model.into(), RepoType::Model, revision.into());
        let at = api.repo(branch.clone());
        let info = match within(self.timeout, move |_| at.info()) {
            Ok(info) => info,
            Err(error) if status(&error).is_some() => return Err(failed(error)),
            Err(error) => {
                let problem = format!("{} cannot be reached ({error})", self.endpoint);
                let dir = self
                    .cached(model, revision)
                    .map_err(|why| hub_error(model, HubCause::Unreachable, format!("{problem}, and {why}")))?;
                tracing::warn!("{problem}; using the copy in {}", dir.display());
                return Ok(dir);
            }
        };

        // All files come from the commit that `revision` is now, whatever is pushed in the meantime.
        let commit = Repo::with_revision(model.into(), RepoType::Model, info.sha.clone());
        let repo = Arc::new(api.repo(commit.clone()));
        let download = Download { repo, dir: cache.repo(commit).pointer_path(&info.sha), timeout: self.timeout };
        let available: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let has = |name: &str| available.contains(&name);
        let weights = WEIGHTS.iter().copied().find(|name| has(name)).unwrap_or(SINGLE);
        let absent: Vec<_> = [CONFIG, weights].into_iter().filter(|name| !has(name)).collect();
        if !absent.is_empty() {
            let absent = absent.join(" and ");
            let message = format!("the hub has it, but without {absent}; it has: {}", available.join(", "));
            return Err(hub_error(model, HubCause::Incomplete, message));
        }
        let names = [CONFIG].into_iter().chain(OPTIONAL.iter().copied().filter(|name| has(name))).chain([weights]);
        for name in names {
            download.file(name).map_err(failed)?;
        }
        if is_index(weights) {
            for shard in shards(&download.dir.join(weights))? {
                download.file(&shard).map_err(failed)?;
            }
        }
        cache.repo(branch).create_ref(&info.sha).map_err(LlamaError::io(&self.cache))?;
        Ok(download.dir)
    }

    /// The complete copy in the cache, or what is wrong with it.
    fn cached(&self, model: &str, revision: &str) -> Result<PathBuf, String> {
        let repo = self.cache.join(format!("models--{}", model.replace('/', "--")));
        let commit = std::fs::read_to_string(repo.join("refs").join(revision));
        let dir = repo.join("snapshots").join(commit.as_deref().unwrap_or(revision).trim());
        if !dir.is_dir() {
            return Err(format!("it is not in the cache {}", self.cache.display()));
        }
        match missing(&dir) {
            missing if missing.is_empty() => Ok(dir),
            missing => Err(format!("the copy in {} lacks {}", dir.display(), missing.join(", "))),
        }
    }

    fn explain(&self, error: &ApiError) -> String {
        match status(error) {
            Some(401 | 403 | 404) => format!(
                "there is no such directory, and {} has no such model or does not show it ({error}); check its name and \
                 revision, and set HF_TOKEN if it is private or gated",
                self.endpoint
            ),
            Some(_) => format!("{} answered: {error}", self.endpoint),
            None => format!(
                "the download from {} broke off ({error}); try again, and it goes on where it stopped",
                self.endpoint
            ),
        }
    }
}

/// The HTTP status of an answer that was none of success.
pub(super) fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        _ => None,
    }
}

/// The kind of an error after the hub was reached.
pub(super) fn cause_of(error: &ApiError) -> HubCause {
    match status(error) {
        Some(401 | 403 | 404) => HubCause::NotFound,
        Some(_) => HubCause::Refused,
        None => HubCause::Interrupted,
    }
}

/// One commit of a repository, and the directory its files are put into.
pub(super) struct Download {
    pub repo: Arc<ApiRepo>,
    pub dir: PathBuf,
    pub timeout: Duration,
}

impl Download {
    pub fn file(&self, name: &str) -> Result<(), ApiError> {
        if self.dir.join(name).exists() {
            return Ok(());
        }
        let (repo, name) = (self.repo.clone(), name.to_owned());
        within(self.timeout, move |life| {
            repo.download_with_progress(&name, Watched { bar: ProgressBar::new(0), life }).map(|_| ())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::super::server::{COMMIT, Files, Server};
    use super::*;

    const INDEX_JSON: &[u8] = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#;

    fn hub(server: &Server, cache: &Path) -> Hub {
        Hub {
            endpoint: server.endpoint(),
            cache: cache.join("hub"),
            token: None,
            offline: false,
            timeout: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_model_is_downloaded_once_and_then_found() {
        let files: Files<'_> = &[
            ("config.json", b"{}"),
            ("tokenizer.json", b"[]"),
            ("model.safetensors", &[7; 5000]),
            ("pytorch_model.bin", b"not wanted"),
            ("README.md", b"not wanted"),
        ];
        let server = Server::start(&[("owner/name", files)]);
        let dir = tempfile::tempdir().unwrap();
        let mut hub = hub(&server, dir.path());
        let snapshot = hub.fetch("owner/name", "main").unwrap();
        assert_eq!(snapshot, dir.path().join("hub/models--owner--name/snapshots").join(COMMIT));
        let mut names: Vec<_> = snapshot.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(std::fs::read(snapshot.join("model.safetensors")).unwrap(), [7; 5000]);

        server.requests();
        assert_eq!(hub.fetch("owner/name", "main").unwrap(), snapshot);
        assert_eq!(server.requests(), ["/api/models/owner/name/revision/main"]);
        hub.offline = true;
        assert_eq!(hub.fetch("owner/name", "main").unwrap(), snapshot);
        assert_eq!(hub.fetch("owner/name", COMMIT).unwrap(), snapshot);
        assert!(server.requests().is_empty());
        hub.offline = false;
        drop(server);
        assert_eq!(hub.fetch("owner/name", "main").unwrap(), snapshot);
    }

    #[test]
    fn shards_come_with_their_index() {
        let files: Files<'_> = &[
            ("config.json", b"{}"),
            ("model.safetensors.index.json", INDEX_JSON),
            ("model-00001-of-00002.safetensors", b"one"),
            ("model-00002-of-00002.safetensors", b"two"),
        ];
        let server = Server::start(&[("owner/big", files)]);
        let dir = tempfile::tempdir().unwrap();
        let mut hub = hub(&server, dir.path());
        let snapshot = hub.fetch("owner/big", "main").unwrap();
        assert_eq!(std::fs::read(snapshot.join("model-00002-of-00002.safetensors")).unwrap(), b"two");
        std::fs::remove_file(snapshot.join("model-00002-of-00002.safetensors")).unwrap();
        hub.offline = true;
        let error = hub.fetch("owner/big", "main").unwrap_err().to_string();
        assert!(error.contains("lacks model-00002-of-00002.safetensors"), "{error}");
    }

    #[test]
    fn a_download_that_breaks_off_goes_on_where_it_stopped() {
        let weights: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
        let files: Files<'_> = &[("config.json", b"{}"), ("model.safetensors", &weights)];
        let server = Server::start(&[("owner/name", files)]);
        let dir = tempfile::tempdir().unwrap();
        let hub = hub(&server, dir.path());
        server.break_off_once();
        let error = hub.fetch("owner/name", "main").unwrap_err().to_string();
        assert!(error.contains("broke off"), "{error}");
        assert!(hub.cached("owner/name", COMMIT).is_err());
        let snapshot = hub.fetch("owner/name", "main").unwrap();
        assert!(std::fs::read(snapshot.join("model.safetensors")).unwrap() == weights);
        assert!(server.resumed(), "the second download began anew");
    }

    #[test]
    fn a_hub_that_falls_silent_is_given_up() {
        let files: Files<'_> = &[("config.json", b"{}"), ("model.safetensors", &[7; 5000])];
        for silent in ["/api/", "/model.safetensors"] {
            let server = Server::start(&[("owner/name", files)]);
            let dir = tempfile::tempdir().unwrap();
            let mut hub = hub(&server, dir.path());
            hub.timeout = Duration::from_millis(300);
            server.fall_silent_at(silent);
            let error = hub.fetch("owner/name", "main").unwrap_err().to_string();
            assert!(error.contains("nothing came for 0.3 seconds"), "{error}");
        }
    }

    #[test]
    fn an_index_cannot_point_outside_the_model() {
        let index = br#"{"weight_map": {"a": "../../../../evil"}}"#;
        let files: Files<'_> = &[("config.json", b"{}"), ("model.safetensors.index.json", index)];
        let server = Server::start(&[("owner/evil", files)]);
        let dir = tempfile::tempdir().unwrap();
        let error = hub(&server, dir.path()).fetch("owner/evil", "main").unwrap_err().to_string();
        assert!(error.contains("a file in the same directory"), "{error}");
        assert!(!server.requests().iter().any(|path| path.contains("evil/resolve") && path.ends_with("/evil")));
    }

    #[test]
    fn a_model_that_lacks_files_is_refused_before_anything_is_downloaded() {
        let server = Server::start(&[("owner/old", &[("model.gguf", b"x" as &[u8]), ("README.md", b"y")])]);
        let dir = tempfile::tempdir().unwrap();
        let error = hub(&server, dir.path()).fetch("owner/old", "main").unwrap_err().to_string();
        let expected = "without config.json and model.safetensors; it has: README.md, model.gguf";
        assert!(error.contains(expected), "{error}");
        assert!(!dir.path().join("hub").exists());
    }

    #[test]
    fn unknown_and_private_models_are_told_how_to_be_had() {
        let files: Files<'_> = &[("config.json", b"{}"), ("model.safetensors", b"w")];
        let server = Server::start(&[("private/model", files)]);
        let dir = tempfile::tempdir().unwrap();
        let mut hub = hub(&server, dir.path());
        for model in ["owner/typo", "private/model"] {
            let error = hub.fetch(model, "main").unwrap_err().to_string();
            assert!(error.contains("has no such model or does not show it"), "{error}");
            assert!(error.contains("set HF_TOKEN"), "{error}");
        }
        hub.token = Some("secret".into());
        assert!(hub.fetch("private/model", "main").unwrap().join("model.safetensors").exists());
    }

    #[test]
    fn without_hub_and_without_copy_both_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&[]);
        let mut hub = hub(&server, dir.path());
        drop(server);
        let error = hub.fetch("owner/name", "main").unwrap_err().to_string();
        assert!(error.contains("cannot be reached"), "{error}");
        assert!(error.contains("and it is not in the cache"), "{error}");
        hub.offline = true;
        let error = hub.fetch("owner/name", "main").unwrap_err().to_string();
        assert!(error.contains("HF_HUB_OFFLINE is set, and it is not in the cache"), "{error}");
    }
}
