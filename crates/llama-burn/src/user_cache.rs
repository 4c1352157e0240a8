//! The user's folder for files that can be made again.

use std::path::PathBuf;

/// The folder `peft-burn` in `XDG_CACHE_HOME`, or in `~/.cache`; `None` for a user without a home. It need not exist.
pub fn user_cache() -> Option<PathBuf> {
    let set = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let cache = set.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
    Some(cache.join("peft-burn"))
}
