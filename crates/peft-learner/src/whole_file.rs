//! Files that are either whole or as they were before.

use std::path::Path;

use peft_burn::PeftError;
use peft_burn::tensor_file::write_atomic;

use crate::error::{LearnerError, Result};

/// Writes `bytes` under a temporary name beside `path`, to the disk, then renames.
///
/// # Errors
/// [`LearnerError::Io`]; a full disk leaves `path` as it was, and no temporary file.
pub fn write_whole(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_atomic(path.as_ref(), bytes).map_err(|error| match error {
        PeftError::Io { path, source } => LearnerError::io("write", path)(source),
        other => other.into(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

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
