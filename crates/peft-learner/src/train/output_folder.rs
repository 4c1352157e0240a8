//! The folder that a run writes into: whether it may, and that it is alone in there.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{LearnerError, Result};

/// Locked while a run uses the folder. The system unlocks it when the process ends, however it ends.
const LOCK: &str = ".lock";
/// The files that a run leaves.
const OURS: [&str; 7] =
    ["checkpoints", "adapter", "config.toml", "metrics.jsonl", "samples.jsonl", "loss.svg", "ranks.svg"];

/// The treatment of a folder that holds a run already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// Return an error and leave the folder as it is.
    #[default]
    Refuse,
    /// Go on from its newest checkpoint.
    Resume,
    /// Replace it.
    Overwrite,
}

/// Checks that a run may write into `dir`. Nothing is changed.
///
/// # Errors
/// [`LearnerError::OutputInUse`] for a folder in which another run is at work, [`LearnerError::OutputExists`] for one that
/// holds a run which is neither resumed nor overwritten, [`LearnerError::Io`] for a path that is a file or lies below one.
pub fn check_output(dir: impl AsRef<Path>, existing: Existing) -> Result<()> {
    let dir = dir.as_ref();
    match File::open(dir.join(LOCK)) {
        Ok(file) => drop(lock(dir, file)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(LearnerError::io("write a run into", dir)(error));
        }
        Err(error) => return Err(LearnerError::io("open", dir.join(LOCK))(error)),
    }
    let holds_run = ["config.toml", "checkpoints", "metrics.jsonl"].iter().any(|name| dir.join(name).exists());
    match existing {
        Existing::Refuse if holds_run => Err(LearnerError::OutputExists { path: dir.to_owned() }),
        _ => Ok(()),
    }
}

/// The folder of a run, for as long as the run lasts.
#[derive(Debug)]
pub(crate) struct OutputFolder {
    dir: PathBuf,
    _lock: File,
}

impl OutputFolder {
    /// Makes `dir` this run's own: creates and locks it, and removes an older run's files where it is to be replaced.
    ///
    /// # Errors
    /// As [`check_output`], and a folder that cannot be created or cleared.
    pub fn claim(dir: impl AsRef<Path>, existing: Existing) -> Result<Self> {
        let dir = dir.as_ref();
        check_output(dir, existing)?;
        std::fs::create_dir_all(dir).map_err(LearnerError::io("create", dir))?;
        let path = dir.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = lock(dir, file.map_err(LearnerError::io("open", &path))?)?;
        if existing == Existing::Overwrite {
            clear(dir)?;
        }
        Ok(Self { dir: dir.to_owned(), _lock: file })
    }

    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// The file, locked.
fn lock(dir: &Path, file: File) -> Result<File> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(LearnerError::OutputInUse { path: dir.to_owned() }),
        // Some network file systems know no locks: there, two runs in one folder go unnoticed.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(LearnerError::io("lock", dir.join(LOCK))(error)),
        Ok(()) => Ok(file),
    }
}

/// Removes an older run; other files in the folder stay.
fn clear(dir: &Path) -> Result<()> {
    for name in OURS {
        let path = dir.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(LearnerError::io("remove", &path)(error)),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_place_for_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        for dir in [file.clone(), file.join("run")] {
            let error = check_output(&dir, Existing::Overwrite).unwrap_err().to_string();
            assert!(error.contains("cannot write a run into") && error.contains("file"), "{error}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn one_run_at_a_time_and_a_lock_left_behind_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("run");
        let first = OutputFolder::claim(&dir, Existing::Refuse).unwrap();
        for existing in [Existing::Refuse, Existing::Resume, Existing::Overwrite] {
            let error = OutputFolder::claim(&dir, existing).unwrap_err();
            assert!(matches!(error, LearnerError::OutputInUse { .. }), "{error}");
        }
        drop(first);
        assert!(dir.join(LOCK).exists(), "as a killed run leaves it");
        OutputFolder::claim(&dir, Existing::Refuse).unwrap();
    }

    #[test]
    fn a_run_is_replaced_only_when_asked_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        std::fs::create_dir(dir.join("checkpoints")).unwrap();
        std::fs::write(dir.join("notes.txt"), "mine").unwrap();
        let error = OutputFolder::claim(dir, Existing::Refuse).unwrap_err();
        assert!(matches!(error, LearnerError::OutputExists { .. }), "{error}");
        drop(OutputFolder::claim(dir, Existing::Resume).unwrap());
        assert!(dir.join("checkpoints").exists());
        drop(OutputFolder::claim(dir, Existing::Overwrite).unwrap());
        assert!(!dir.join("checkpoints").exists() && dir.join("notes.txt").exists());
    }
}
