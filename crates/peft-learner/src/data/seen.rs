//! Digests of files that were read whole before: as long as size and time of change are the same, the content is.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{LearnerError, Result};
use crate::whole_file::write_whole;

/// A file that was changed so shortly before it was read may have been changed again within the clock's resolution.
const SETTLED: Duration = Duration::from_secs(2);

/// Notes of digests in a folder, one file each.
pub(super) struct Seen<'a> {
    folder: &'a Path,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Note {
    path: PathBuf,
    length: u64,
    changed: SystemTime,
    /// The file's number and the time of its last change of any kind, which no program sets back, where the system has them.
    #[serde(default)]
    unforged: (u64, i64, i64),
    digest: String,
}

impl<'a> Seen<'a> {
    pub fn new(folder: &'a Path) -> Self {
        Self { folder }
    }

    /// The digest of the file at `path`, where it was noted and the file is as it was then.
    pub fn digest(&self, path: &Path) -> Option<u128> {
        let now = note(path, 0)?;
        let then: Note = serde_json::from_slice(&std::fs::read(self.file(&now.path)).ok()?).ok()?;
        let same = then == Note { digest: then.digest.clone(), ..now };
        same.then(|| u128::from_str_radix(&then.digest, 16).ok()).flatten()
    }

    /// Notes the digest of the file at `path`, which was just read, unless it changed a moment ago.
    pub fn note(&self, path: &Path, digest: u128) {
        let settled = |note: &Note| note.changed.elapsed().is_ok_and(|age| age > SETTLED);
        if let Some(note) = note(path, digest).filter(settled) {
            self.write(&note);
        }
    }

    /// Notes the digest of a file that this process wrote.
    pub fn note_own(&self, path: &Path, digest: u128) {
        if let Some(note) = note(path, digest) {
            self.write(&note);
        }
    }

    fn write(&self, note: &Note) {
        // Without the note the file is read again.
        if let Ok(json) = serde_json::to_vec(note) {
            let _ = std::fs::create_dir_all(self.folder);
            let _ = write_whole(self.file(&note.path), &json);
        }
    }

    fn file(&self, path: &Path) -> PathBuf {
        self.folder.join(format!("{:016x}.seen", xxh3_64(path.as_os_str().as_encoded_bytes())))
    }
}

fn note(path: &Path, digest: u128) -> Option<Note> {
    let path = path.canonicalize().ok()?;
    let meta = std::fs::metadata(&path).ok()?;
    let (changed, unforged) = (meta.modified().ok()?, unforged(&meta));
    Some(Note { path, length: meta.len(), changed, unforged, digest: format!("{digest:x}") })
}

#[cfg(unix)]
fn unforged(meta: &Metadata) -> (u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (meta.ino(), meta.ctime(), meta.ctime_nsec())
}

#[cfg(not(unix))]
fn unforged(_: &Metadata) -> (u64, i64, i64) {
    (0, 0, 0)
}

/// The digest of what is in a file.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn content(path: &Path) -> Result<u128> {
    let (mut hash, mut block) = (Xxh3::new(), vec![0; 1 << 20]);
    let mut file = File::open(path).map_err(LearnerError::io("open", path))?;
    loop {
        match file.read(&mut block).map_err(LearnerError::io("read", path))? {
            0 => return Ok(hash.digest128()),
            read => hash.update(&block[..read]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::FileTimes;

    use super::*;

    #[test]
    fn a_digest_holds_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, path) = (folder.path().join("notes"), folder.path().join("a"));
        let age = |seconds| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(then)).unwrap();
        };
        let seen = Seen::new(&notes);
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(seen.digest(&path), None);
        seen.note(&path, 5);
        assert_eq!(seen.digest(&path), None, "it was changed a moment ago");
        seen.note_own(&path, 5);
        assert_eq!(seen.digest(&path), Some(5));
        age(100);
        assert_eq!(seen.digest(&path), None, "another time");
        seen.note(&path, 6);
        assert_eq!(seen.digest(&path), Some(6));
        #[cfg(unix)]
        {
            let then = std::fs::metadata(&path).unwrap().modified().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            std::fs::write(&path, "xyz").unwrap();
            File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(then)).unwrap();
            assert_eq!(seen.digest(&path), None, "its old size and time do not hide the change");
        }
        std::fs::write(&path, "abcd").unwrap();
        assert_eq!(seen.digest(&path), None, "another size");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(seen.digest(&path), None);
    }
}
