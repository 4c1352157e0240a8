//! Downloading from the hub into the shared cache.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::files::{CONFIG, INDEX, OPTIONAL, WEIGHTS, missing, shards};
use super::hub_error;
use crate::error::{LlamaError, Result};

/// A hub and the cache its files are kept in.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The hub's address.
    pub endpoint: String,
    /// The directory of the cache, the `hub` folder of Python's `huggingface_hub`.
    pub cache: PathBuf,
    /// The access token, for private and gated models.
    pub token: Option<String>,
    /// Whether to use nothing but the cache.
    pub offline: bool,
}

impl Hub {
    /// The hub that the environment describes; see [`resolve`](super::resolve).
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// `hf-hub` 0.5 reads only `HF_HOME` and `HF_ENDPOINT` by itself.
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache"));
            cache.join("huggingface")
        });
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let offline = variable("HF_HUB_OFFLINE").unwrap_or_default().to_uppercase();
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(home.join("token")).ok());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            offline: matches!(offline.as_str(), "1" | "ON" | "YES" | "TRUE"),
        }
    }

    /// The directory of a model's files at `revision`, downloaded where they are not in the cache yet. Where the hub
    /// cannot be reached, the copy in the cache is used.
    ///
    /// # Errors
    /// [`LlamaError::Hub`], as [`resolve`](super::resolve).
    pub fn fetch(&self, model: &str, revision: &str) -> Result<PathBuf> {
        if self.offline {
            return self.cached(model, revision).map_err(|why| {
                let message = format!("HF_HUB_OFFLINE is set, and {why}; unset it once to download the model");
                hub_error(model, message)
            });
        }
        let failed = |error: ApiError| hub_error(model, self.explain(&error));
        let cache = Cache::new(self.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone()).with_endpoint(self.endpoint.clone());
        let api = api.with_token(self.token.clone()).build().map_err(failed)?;
        let branch = Repo::with_revision(model.into(), RepoType::Model, revision.into());
        let info = match api.repo(branch.clone()).info() {
            Ok(info) => info,
            Err(error) if status(&error).is_some() => return Err(failed(error)),
            Err(error) => {
                let dir = self
                    .cached(model, revision)
                    .map_err(|why| hub_error(model, format!("{}, and {why}", self.explain(&error))))?;
                tracing::warn!("{}; using the copy in {}", self.explain(&error), dir.display());
                return Ok(dir);
            }
        };

        // All files come from the commit that `revision` is now, whatever is pushed in the meantime.
        let commit = Repo::with_revision(model.into(), RepoType::Model, info.sha.clone());
        let download = Download { repo: api.repo(commit.clone()), dir: cache.repo(commit).pointer_path(&info.sha) };
        let available: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let has = |name: &str| available.contains(&name);
        let weights = if has(WEIGHTS) { WEIGHTS } else { INDEX };
        let absent: Vec<_> = [CONFIG, weights].into_iter().filter(|name| !has(name)).collect();
        if !absent.is_empty() {
            let absent = absent.join(" and ").replace(INDEX, WEIGHTS);
            let message = format!("the hub has it, but without {absent}; it has: {}", available.join(", "));
            return Err(hub_error(model, message));
        }
        let names = [CONFIG].into_iter().chain(OPTIONAL.iter().copied().filter(|name| has(name))).chain([weights]);
        for name in names {
            download.file(name).map_err(failed)?;
        }
        if weights == INDEX {
            for shard in shards(&download.dir.join(INDEX))? {
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
            None => {
                format!("the download from {} failed ({error}); what is complete is kept, try again", self.endpoint)
            }
        }
    }
}

/// The HTTP status of an answer that was none of success.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        _ => None,
    }
}

/// One commit of a repository, and the directory its files are put into.
struct Download {
    repo: ApiRepo,
    dir: PathBuf,
}

impl Download {
    fn file(&self, name: &str) -> Result<(), ApiError> {
        if !Path::new(&self.dir).join(name).exists() {
            self.repo.download(name)?;
        }
        Ok(())
    }
}
