//! Runs that are killed, or asked to end, go on as if they had not been.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Place, ROWS};

/// Accumulation, dropout, shuffling and evaluations: whatever could depend on where a run was cut.
const LONG: &str = "train run.toml --set training.max_steps=60 --set training.gradient_accumulation_steps=2 \
                    --set data.valid=train.jsonl --set training.eval_steps=7";

fn start(place: &Place, line: &str) -> Child {
    let args: Vec<_> = line.split_whitespace().collect();
    place.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_until(mut now: impl FnMut() -> bool) {
    let started = Instant::now();
    while !now() {
        assert!(started.elapsed() < Duration::from_secs(60), "it never came to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends `signal`, such as `INT`, to a process.
fn send(child: &Child, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
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

/// Long evaluations, each right after a checkpoint: where it is killed, the step is saved and its evaluation is not.
#[test]
fn a_run_killed_in_its_evaluations_lacks_none_in_the_end() {
    let place = Place::new();
    place.write("valid.jsonl", &ROWS.repeat(60));
    let line = "train run.toml --set training.max_steps=9 --set training.eval_steps=3 --set training.save_steps=3 \
                --set data.valid=valid.jsonl";
    place.ok(&format!("{line} --set output=whole"));
    let metrics = place.path("run/metrics.jsonl");
    let mut caught = 0;
    for (step, before) in [(3, 3), (6, 7), (9, 11)] {
        let checkpoint = place.path(&format!("run/checkpoints/step-{step}"));
        // Twice each: a run that is killed in an evaluation that it makes up for is no different.
        for _ in 0..2 {
            let child = start(&place, &format!("{line} --resume"));
            let killed = kill_when(child, || checkpoint.exists() && lines(&metrics) >= before);
            caught += usize::from(killed && lines(&metrics) == before);
        }
    }
    assert!(caught >= 3, "{caught} of 6 kills met an evaluation");
    place.ok(&format!("{line} --resume"));
    let (whole, resumed) = (result(&place, "whole"), result(&place, "run"));
    assert_eq!(resumed.1, whole.1);
    assert!(resumed.0 == whole.0, "the adapters differ");
}

#[test]
#[cfg(unix)]
fn the_first_signal_saves_the_step_and_says_how_to_go_on() {
    let place = Place::new();
    place.ok(&format!("{LONG} --set output=whole"));
    let metrics = place.path("run/metrics.jsonl");
    for (signal, code, from) in [("INT", 130, 0), ("TERM", 143, 20)] {
        let child = start(&place, &format!("{LONG} --resume"));
        wait_until(|| lines(&metrics) > from + 3);
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("stopped by"), "{said}");
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("go on with the same command and --resume"), "{said}");
        // The step that was at work is in the newest checkpoint, and no step after it was begun.
        let lines = place.metrics("run");
        let step = lines.iter().rev().find(|line| line["split"] == "train").unwrap()["step"].as_u64().unwrap();
        assert!(place.path(&format!("run/checkpoints/step-{step}/trainer_state.json")).exists(), "step {step}");
    }
    place.ok(&format!("{LONG} --resume"));
    let (whole, resumed) = (result(&place, "whole"), result(&place, "run"));
    assert_eq!(resumed.1, whole.1);
    assert!(resumed.0 == whole.0, "the adapters differ");
}

#[test]
#[cfg(unix)]
fn a_quickstart_goes_on_with_the_same_command() {
    let place = Place::new();
    let line = "quickstart --output quick --max-steps 60";
    let child = start(&place, line);
    wait_until(|| lines(&place.path("quick/metrics.jsonl")) > 3);
    send(&child, "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    place.ok(&format!("{line} --resume"));
    let steps = place.metrics("quick").iter().filter(|line| line["split"] == "train").count();
    assert_eq!(steps, 60);
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_the_run_at_once() {
    let place = Place::new();
    // One step of minutes.
    let line = "train run.toml --set training.gradient_accumulation_steps=20000";
    let child = start(&place, line);
    wait_until(|| place.path("run/metrics.jsonl").exists());
    std::thread::sleep(Duration::from_millis(300));
    send(&child, "INT");
    std::thread::sleep(Duration::from_millis(300));
    let sent = Instant::now();
    send(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert!(sent.elapsed() < Duration::from_secs(5), "it took {:?}", sent.elapsed());
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert_eq!(lines(&place.path("run/metrics.jsonl")), 0);
}

#[test]
fn one_run_at_a_time_in_a_folder_and_a_killed_one_leaves_no_lock() {
    let place = Place::new();
    let metrics = place.path("run/metrics.jsonl");
    let mut first = start(&place, &format!("{LONG} --set training.max_steps=100000 --set training.warmup_steps=0"));
    wait_until(|| lines(&metrics) > 3);
    for option in ["--resume", "--overwrite", ""] {
        place.run(&format!("{LONG} {option}")).fails_with(&["another run is at work in `run`"]);
    }
    assert!(first.try_wait().unwrap().is_none(), "the first one goes on");
    first.kill().unwrap();
    first.wait().unwrap();
    place.ok("train run.toml --overwrite");
}

#[test]
fn a_run_is_resumed_with_the_same_contents_and_what_may_change_is_said() {
    let place = Place::new();
    place.ok("train run.toml");
    std::fs::create_dir(place.path("moved")).unwrap();
    std::fs::copy(place.path("train.jsonl"), place.path("moved/rows.jsonl")).unwrap();
    let others = "--set training.eval_steps=2 --set training.save_steps=3 --set training.save_total_limit=5 \
                  --set training.max_steps=14";
    for path in ["./train.jsonl", "moved/rows.jsonl"] {
        let said = place.ok(&format!("train run.toml --resume {others} --set data.train={path}"));
        for part in ["training.eval_steps was 6 and is 2", "training.max_steps was 12 and is 14", "data.train was"] {
            assert!(said.err.contains(part) || path.contains("moved"), "{part} is not in:\n{}", said.err);
        }
        assert!(said.err.contains("data.train was"), "{}", said.err);
    }
    assert_eq!(place.metrics("run").iter().filter(|line| line["split"] == "train").count(), 14);

    place.write("train.jsonl", &ROWS.replace("Alice", "Alina"));
    let resume = format!("train run.toml --resume {others}");
    place.run(&resume).fails_with(&["data changed", "begin a new"]);
    place.write("train.jsonl", ROWS);
    place.run(&format!("{resume} --set training.learning_rate=1e-3")).fails_with(&["training.learning_rate was 0.01"]);
    place.run(&format!("{resume} --set training.max_steps=5")).fails_with(&["step 14", "5 steps"]);
    place.copy_model("other");
    let tokenizer = String::from_utf8(place.read("other/tokenizer_config.json")).unwrap();
    place.write("other/tokenizer_config.json", &tokenizer.replacen('{', "{\"extra\": 1,", 1));
    place.run(&format!("{resume} --set model.path=other")).fails_with(&["tokenizer changed"]);
}

#[test]
fn the_model_writes_samples_while_it_trains_and_each_once() {
    let place = Place::new();
    let config = String::from_utf8(place.read("run.toml")).unwrap();
    place.write(
        "run.toml",
        &format!("{config}sample_prompts = [\"Alice was\", \"The Queen\"]\nsample_max_new_tokens = 6\n"),
    );
    place.ok("train run.toml --set output=whole");
    let samples = |run: &str| String::from_utf8(place.read(&format!("{run}/samples.jsonl"))).unwrap();
    let lines: Vec<Value> = samples("whole").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<_> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [6, 6, 12, 12]);
    assert!(lines.iter().all(|line| !line["text"].as_str().unwrap().is_empty()), "{lines:?}");
    let file = place.path("run/samples.jsonl");
    assert!(kill_when(start(&place, "train run.toml"), || file.exists()));
    let said = place.ok("train run.toml --resume");
    assert!(said.err.contains("Alice was"), "{}", said.err);
    assert_eq!(samples("run"), samples("whole"));
    place.run("train run.toml --overwrite --set training.sample_prompts=['']").fails_with(&["cannot be answered"]);
}
