//! A hub and its cache, as the environment describes them.

use std::path::PathBuf;
use std::time::Duration;

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
    /// How long the hub may send nothing before it is given up.
    pub timeout: Duration,
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
        let seconds = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.parse().ok());
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(home.join("token")).ok());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            offline: matches!(offline.as_str(), "1" | "ON" | "YES" | "TRUE"),
            timeout: Duration::from_secs(seconds.filter(|&seconds| seconds > 0).unwrap_or(30)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_environment_is_read_as_by_huggingface_hub() {
        let hub = |variables: &[(&str, &str)]| {
            let variables: HashMap<_, _> = variables.iter().copied().collect();
            Hub::from_variables(|name| variables.get(name).map(ToString::to_string))
        };
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        std::fs::write(dir.path().join("token"), "from-file\n").unwrap();
        let plain = hub(&[("HF_HOME", home)]);
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        assert_eq!(plain.timeout, Duration::from_secs(30));
        assert_eq!((plain.cache, plain.token.as_deref()), (dir.path().join("hub"), Some("from-file")));
        let set = hub(&[
            ("HF_HOME", home),
            ("HF_HUB_CACHE", "/cache"),
            ("HF_TOKEN", "given"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "yes"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "5"),
        ]);
        assert_eq!(set.timeout, Duration::from_secs(5));
        assert_eq!((set.endpoint.as_str(), set.offline), ("http://mirror", true));
        assert_eq!((set.cache, set.token.as_deref()), (PathBuf::from("/cache"), Some("given")));
        let xdg = hub(&[("XDG_CACHE_HOME", "/xdg"), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!((xdg.cache, xdg.token, xdg.offline), (PathBuf::from("/xdg/huggingface/hub"), None, false));
    }
}
