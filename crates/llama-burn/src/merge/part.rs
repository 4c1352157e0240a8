//! A folder that is filled under another name, and appears as a whole.

use std::path::{Path, PathBuf};

use crate::error::{LlamaError, Result};

/// The folder beside `output` that is filled and then renamed.
pub(crate) fn part_of(output: &Path) -> Result<PathBuf> {
    let entries = match std::fs::read_dir(output) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(LlamaError::io(output)(error)),
    };
    let Some(name) = output.file_name().filter(|_| !entries) else {
        return Err(LlamaError::OutputExists { path: output.to_owned() });
    };
    let part = output.with_file_name(format!(".{}.part", name.to_string_lossy()));
    if part.exists() {
        std::fs::remove_dir_all(&part).map_err(LlamaError::io(&part))?;
    }
    Ok(part)
}

/// Fills the folder `part` by `write`, and gives it the name `output`; if that fails nothing is left.
pub(crate) fn put_in_place(part: &Path, output: &Path, write: impl FnOnce() -> Result<()>) -> Result<()> {
    let written = write().and_then(|()| {
        // An empty folder in the place would stop the rename on some systems.
        let _ = std::fs::remove_dir(output);
        std::fs::rename(part, output).map_err(LlamaError::io(output))
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_dir_all(part);
    }
    written
}
