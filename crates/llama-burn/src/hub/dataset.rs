//! Files of data sets on the hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::download::{Download, cause_of, status};
use super::patience::within;
use super::settings::Hub;
use crate::error::{HubCause, LlamaError, Result};

fn error(name: &str, cause: HubCause, message: impl Into<String>) -> LlamaError {
    LlamaError::HubDataset { name: name.to_string(), cause, message: message.into() }
}

impl Hub {
    /// Files of a data set at `revision`, downloaded where they are not in the cache yet: those that `wanted` chooses from the
    /// names of all. Where the hub cannot be reached, those in the cache are used.
    ///
    /// # Errors
    /// [`LlamaError::HubDataset`], as [`resolve_dataset`](super::resolve_dataset).
    pub fn fetch_dataset(
        &self,
        name: &str,
        revision: &str,
        wanted: impl Fn(&[String]) -> Vec<String>,
    ) -> Result<Vec<PathBuf>> {
        if self.offline {
            return self.cached_dataset(name, revision, &wanted).map_err(|why| {
                let message = format!("HF_HUB_OFFLINE is set, and {why}; unset it once to download the data set");
                error(name, HubCause::Offline, message)
            });
        }
        let failed = |problem: ApiError| error(name, cause_of(&problem), self.explain_dataset(&problem));
        let cache = Cache::new(self.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone()).with_endpoint(self.endpoint.clone());
        let api = api.with_token(self.token.clone()).build().map_err(failed)?;
        let branch = Repo::with_revision(name.into(), RepoType::Dataset, revision.into());
        let at = api.repo(branch.clone());
        let info = match within(self.timeout, move |_| at.info()) {
            Ok(info) => info,
            Err(problem) if status(&problem).is_some() => return Err(failed(problem)),
            Err(problem) => {
                let problem = format!("{} cannot be reached ({problem})", self.endpoint);
                let files = self.cached_dataset(name, revision, &wanted);
                let files = files.map_err(|why| error(name, HubCause::Unreachable, format!("{problem}, and {why}")))?;
                tracing::warn!("{problem}; using the copy in {}", self.cache.display());
                return Ok(files);
            }
        };
        let available: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        let names = wanted(&available);
        if names.is_empty() {
            let listed = available.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
            let message = format!(
                "the hub has it, but without files that fit (.parquet, .jsonl, .json, .csv, .tsv, named for the part that is \
                 asked for); it has: {listed}; download what you need and give the files"
            );
            return Err(error(name, HubCause::Incomplete, message));
        }
        // All files come from the commit that `revision` is now, whatever is pushed in the meantime.
        let commit = Repo::with_revision(name.into(), RepoType::Dataset, info.sha.clone());
        let repo = Arc::new(api.repo(commit.clone()));
        let download = Download { repo, dir: cache.repo(commit).pointer_path(&info.sha), timeout: self.timeout };
        for file in &names {
            download.file(file).map_err(failed)?;
        }
        cache.repo(branch).create_ref(&info.sha).map_err(LlamaError::io(&self.cache))?;
        Ok(names.iter().map(|file| download.dir.join(file)).collect())
    }

    /// The files in the cache, or what is wrong. Which others the data set has is not known.
    fn cached_dataset(
        &self,
        name: &str,
        revision: &str,
        wanted: &impl Fn(&[String]) -> Vec<String>,
    ) -> Result<Vec<PathBuf>, String> {
        let repo = self.cache.join(format!("datasets--{}", name.replace('/', "--")));
        let commit = std::fs::read_to_string(repo.join("refs").join(revision));
        let dir = repo.join("snapshots").join(commit.as_deref().unwrap_or(revision).trim());
        let mut available = Vec::new();
        names(&dir, &dir, &mut available);
        let files: Vec<PathBuf> = wanted(&available).iter().map(|file| dir.join(file)).collect();
        if files.is_empty() { Err(format!("it is not in the cache {}", self.cache.display())) } else { Ok(files) }
    }

    fn explain_dataset(&self, problem: &ApiError) -> String {
        match status(problem) {
            Some(401 | 403 | 404) => format!(
                "there is no such file or folder, and {} has no such data set or does not show it ({problem}); check its name \
                 and revision, and set HF_TOKEN if it is private or gated",
                self.endpoint
            ),
            Some(_) => format!("{} answered: {problem}", self.endpoint),
            None => format!(
                "the download from {} broke off ({problem}); try again, and it goes on where it stopped",
                self.endpoint
            ),
        }
    }
}

/// The files below `dir`, by their names in `root`.
fn names(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            names(root, &path, found);
        } else if let Ok(name) = path.strip_prefix(root) {
            found.push(name.to_string_lossy().replace('\\', "/"));
        }
    }
    found.sort();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::super::server::{Files, Server};
    use super::*;

    #[test]
    fn the_wanted_files_of_a_data_set_are_downloaded_once() {
        let files: Files<'_> =
            &[("README.md", b"x"), ("data/train-0.parquet", b"PAR1"), ("data/test-0.parquet", b"PAR1")];
        let server = Server::start(&[("owner/rows", files)]);
        let folder = tempfile::tempdir().unwrap();
        let mut hub = Hub {
            endpoint: server.endpoint(),
            cache: folder.path().join("hub"),
            token: None,
            offline: false,
            timeout: Duration::from_secs(30),
        };
        let train = |names: &[String]| names.iter().filter(|name| name.contains("train")).cloned().collect();
        let found = hub.fetch_dataset("owner/rows", "main", train).unwrap();
        assert_eq!(std::fs::read(&found[0]).unwrap(), b"PAR1");
        assert!(found[0].ends_with("data/train-0.parquet") && found.len() == 1);
        assert!(server.requests().iter().any(|path| path.starts_with("/api/datasets/owner/rows/revision/main")));
        assert_eq!(hub.fetch_dataset("owner/rows", "main", train).unwrap(), found);
        assert!(server.requests().iter().all(|path| !path.contains("resolve")), "nothing is downloaded twice");
        let error = hub.fetch_dataset("owner/rows", "main", |_| Vec::new()).unwrap_err().to_string();
        assert!(error.contains("without files that fit") && error.contains("data/test-0.parquet"), "{error}");
        let error = hub.fetch_dataset("owner/none", "main", train).unwrap_err().to_string();
        assert!(error.starts_with("data set \"owner/none\": there is no such file or folder"), "{error}");
        hub.offline = true;
        assert_eq!(hub.fetch_dataset("owner/rows", "main", train).unwrap(), found);
        let error = hub.fetch_dataset("owner/none", "main", train).unwrap_err().to_string();
        assert!(error.contains("HF_HUB_OFFLINE is set, and it is not in the cache"), "{error}");
    }
}
