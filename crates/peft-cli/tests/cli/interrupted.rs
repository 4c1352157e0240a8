//! Runs that are killed go on as if they had not been.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::Place;

/// Accumulation, dropout, shuffling and evaluations: whatever could depend on where a run was cut.
const LONG: &str = "train run.toml --set training.max_steps=60 --set training.gradient_accumulation_steps=2 \
                    --set data.valid=train.jsonl --set training.eval_steps=7";

fn start(place: &Place, line: &str) -> Child {
    let args: Vec<_> = line.split_whitespace().collect();
    place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills `child` (SIGKILL) as soon as `now` says so. False where it ended before.
fn kill_when(mut child: Child, mut now: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !now() {
        assert!(started.elapsed() < Duration::from_secs(60), "it never came to that");
        if child.try_wait().unwrap().is_some() {
            return false;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

fn lines(file: &Path) -> usize {
    std::fs::read(file).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count()
}

/// Whether a checkpoint is being written.
fn writing(checkpoints: &Path) -> bool {
    let entries = std::fs::read_dir(checkpoints).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".part"))
}

fn result(place: &Place, run: &str) -> (Vec<u8>, Vec<Value>) {
    (place.read(&format!("{run}/adapter/adapter_model.safetensors")), place.metrics(run))
}

#[test]
fn a_run_killed_in_the_middle_ends_as_if_it_was_not() {
    let place = Place::new();
    place.ok(&format!("{LONG} --set output=whole"));
    let (adapter, metrics) = result(&place, "whole");
    assert_eq!(metrics.len(), 60 + 9);

    let metrics_file = place.path("run/metrics.jsonl");
    assert!(kill_when(start(&place, LONG), || lines(&metrics_file) >= 20), "it was to be killed before its end");
    assert!(!place.path("run/adapter").exists());
    // Killed again, and in the middle of writing a line of metrics.
    assert!(kill_when(start(&place, &format!("{LONG} --resume")), || lines(&metrics_file) >= 40));
    let mut torn = place.read("run/metrics.jsonl");
    torn.extend(b"{\"split\":\"train\",\"step\":4");
    std::fs::write(&metrics_file, torn).unwrap();
    let said = place.ok(&format!("{LONG} --resume"));
    assert!(said.out.contains("steps after the "), "{}", said.out);
    let resumed = result(&place, "run");
    assert_eq!(resumed.1, metrics);
    assert!(resumed.0 == adapter, "the adapters differ");
}

#[test]
fn a_run_killed_while_writing_a_checkpoint_goes_on_from_the_one_before() {
    let place = Place::new();
    let line = format!("{LONG} --set training.save_steps=1");
    place.ok(&format!("{line} --set output=whole"));
    let checkpoints = place.path("run/checkpoints");
    let mut caught = 0;
    for _ in 0..20 {
        let from = lines(&place.path("run/metrics.jsonl"));
        // Some steps each time, then the next checkpoint that is seen half-written.
        let now = || lines(&place.path("run/metrics.jsonl")) > from + 3 && writing(&checkpoints);
        if !kill_when(start(&place, &format!("{line} --resume")), now) {
            break;
        }
        caught += usize::from(writing(&checkpoints));
        if caught == 3 {
            break;
        }
    }
    assert!(caught > 0, "no checkpoint was caught half-written");
    place.ok(&format!("{line} --resume"));
    assert!(!writing(&checkpoints), "what was half-written is cleared away");
    let (whole, resumed) = (result(&place, "whole"), result(&place, "run"));
    assert_eq!(resumed.1, whole.1);
    assert!(resumed.0 == whole.0, "the adapters differ");
}
