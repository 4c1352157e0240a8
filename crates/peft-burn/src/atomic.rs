//! Writing a file so that a reader sees the old contents or the new, never a part.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::{PeftError, Result};

/// Writes `bytes` under a temporary name beside `path`, flushes them to the disk and renames.
///
/// # Errors
/// [`PeftError::Io`] naming `path`; the old file is then as it was and the temporary one is gone.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Nothing more can be done about a leftover than to report the first cause.
        _ = fs::remove_file(&temporary);
    }
    written.map_err(PeftError::io(path))
}
