//! Which data a run takes: files with weights, a share of the rows, and where tokens are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A file, folder, pattern or data set of the hub, and how often its rows come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "AnySource", into = "AnySource")]
pub struct Source {
    /// Its name, as [`locate`](super::locate) takes it.
    pub path: String,
    /// How often each row comes in an epoch: 2 is twice, 0.5 is every other row, chosen at random.
    pub weight: f64,
    /// The names of its columns in the file, which come before those of [`RowOptions::columns`](super::RowOptions::columns).
    pub columns: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AnySource {
    Path(String),
    Weighted(Weighted),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    path: String,
    #[serde(default = "once", skip_serializing_if = "is_once")]
    weight: f64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    columns: BTreeMap<String, String>,
}

fn once() -> f64 {
    1.0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_once(weight: &f64) -> bool {
    *weight == 1.0
}

impl From<AnySource> for Source {
    fn from(source: AnySource) -> Self {
        match source {
            AnySource::Path(path) => Self { path, weight: 1.0, columns: BTreeMap::new() },
            AnySource::Weighted(Weighted { path, weight, columns }) => Self { path, weight, columns },
        }
    }
}

impl From<Source> for AnySource {
    fn from(Source { path, weight, columns }: Source) -> Self {
        if weight == 1.0 && columns.is_empty() {
            Self::Path(path)
        } else {
            Self::Weighted(Weighted { path, weight, columns })
        }
    }
}

impl<T: Into<PathBuf>> From<T> for Source {
    fn from(path: T) -> Self {
        Self { path: path.into().to_string_lossy().into_owned(), weight: 1.0, columns: BTreeMap::new() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// The rows that a run is evaluated on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Valid {
    /// A share of the rows to train on, which are then not trained on: above 0 and below 1.
    Share(f64),
    /// Rows of their own.
    Sources(Vec<Source>),
}

/// Whether tokens are kept for the next start, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataCache {
    /// The tokens of files above 16 MB, in the user's folder for caches (`peft-burn/tokens` in `XDG_CACHE_HOME` or `~/.cache`).
    #[default]
    Auto,
    /// No tokens.
    Off,
    /// The tokens of all files, in this folder.
    Folder(PathBuf),
}

impl DataCache {
    /// Smaller files are encoded in no time.
    const AUTO_ABOVE: u64 = 16 << 20;

    /// The folder for the tokens of a file of `bytes` bytes.
    pub(super) fn folder(&self, bytes: u64) -> Option<PathBuf> {
        match self {
            Self::Off => None,
            Self::Folder(folder) => Some(folder.clone()),
            Self::Auto if bytes < Self::AUTO_ABOVE => None,
            Self::Auto => Some(llama_burn::user_cache()?.join("tokens")),
        }
    }
}
