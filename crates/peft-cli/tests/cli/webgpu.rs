//! On WebGPU, where `PEFT_TEST_DEVICE` asks for it: the driver may be a software one, and slow.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Said, glassllm};

/// A forward pass with `home` for a home, in `place`, and the time it took with everything before it.
fn forward(place: &Path, home: &Path) -> Duration {
    let started = Instant::now();
    let mut peft = Command::new(env!("CARGO_BIN_EXE_peft"));
    peft.current_dir(place).env("HOME", home).env("XDG_CACHE_HOME", home.join("cache"));
    // Mesa's driver has a cache of its own, which would hide whether ours works.
    peft.env("MESA_SHADER_CACHE_DISABLE", "true").arg("bench").arg("--model").arg(glassllm());
    peft.args("--device webgpu --method base_forward --batch 1 --seq 8 --steps 1 --warmup 0".split(' '));
    let said = Said::from(peft.output().unwrap());
    assert_eq!(said.code, 0, "{}", said.err);
    started.elapsed()
}

/// The sizes of the files in a folder, in the order of their names.
fn sizes(folder: &Path) -> Vec<u64> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.iter().map(|path| path.metadata().unwrap().len()).collect()
}

#[test]
fn what_was_tuned_is_kept_for_the_next_run() {
    if std::env::var("PEFT_TEST_DEVICE").as_deref() != Ok("webgpu") {
        return;
    }
    let (place, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = forward(place.path(), home.path());
    let kept = home.path().join("cache/cubecl");
    let found = sizes(&kept);
    assert!(found.iter().sum::<u64>() > 100_000, "{found:?} bytes in {}", kept.display());
    let second = forward(place.path(), home.path());
    assert_eq!(sizes(&kept), found, "nothing is tuned or compiled anew");
    assert!(second < first, "{second:.1?} after {first:.1?}");
}
