//! Files that last as long as the value that holds them.

use std::fs::{File, OpenOptions};
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
        let name = format!("peft-{}-{}.rows", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let spool = Self { path: std::env::temp_dir().join(name) };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&spool.path);
        let file = file.map_err(LearnerError::io("create", &spool.path))?;
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
