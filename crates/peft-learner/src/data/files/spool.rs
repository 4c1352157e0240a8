//! Files that last as long as the value that holds them.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{LearnerError, Result};

/// A file in the system's folder for temporary ones (`TMPDIR`), which goes when this value does.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
}

impl Spool {
    /// An empty file, open for reading and writing.
    pub fn new() -> Result<(File, Self)> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (file, path) = loop {
            let name = format!("peft-{}-{}.rows", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            // Never a file, or what a link leads to, that somebody else has put there.
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(LearnerError::io("create", &path)(error)),
            }
        };
        let spool = Self { path };
        if cfg!(unix) {
            // An open file is there without a name, and so nothing is left of it however the process ends.
            spool.remove();
        }
        Ok((file, spool))
    }

    /// Its name, for messages.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn remove(&self) {
        // A file that is left behind is harmless.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !cfg!(unix) {
            self.remove();
        }
    }
}
