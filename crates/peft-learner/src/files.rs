//! Files that are either whole or as they were before.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{LearnerError, Result};

/// Writes `bytes` under a temporary name beside `path`, to the disk, then renames.
///
/// # Errors
/// [`LearnerError::Io`]; a full disk leaves `path` as it was, and no temporary file.
pub fn write_whole(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
        LearnerError::io("write", path)(error)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");

        // A folder cannot be replaced by a file: the rename fails after everything was written.
        let blocked = folder.path().join("blocked");
        fs::create_dir(&blocked).unwrap();
        let error = write_whole(&blocked, b"x").unwrap_err().to_string();
        assert!(error.starts_with("cannot write") && error.contains("blocked"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    }
}
