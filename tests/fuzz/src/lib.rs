//! A fuzz target for each reader of files. The readers are those of the mutation test, `tests/mutations.rs`.
//!
//! ```text
//! FUZZ_CORPUS=tests/fuzz/corpus cargo test --test mutations every_reader     # the files to begin with
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz safetensors -- -max_total_time=600 -rss_limit_mb=4096
//! ```

use std::path::PathBuf;

/// Gives `bytes` to the reader called `name`, with an empty folder of this process's own.
pub fn read(name: &str, bytes: &[u8]) {
    let dir: PathBuf = std::env::temp_dir().join(format!("fuzz-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    if std::fs::create_dir_all(&dir).is_ok() {
        (peft_burn_workspace::readers::reader(name).read)(bytes, &dir);
    }
}
