//! Runs in a terminal, under Burn's dashboard.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::Place;

/// Runs `peft` with the words of `line` in a terminal, where Ctrl-C is pressed each time that the run's metrics have come
/// to one of `lines`.
fn in_terminal(place: &Place, lines: &str, line: &str) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/in_terminal.py");
    let peft = place.command(&line.split_whitespace().collect::<Vec<_>>());
    let output = Command::new("python3")
        .arg(script)
        .arg(place.path("run/metrics.jsonl"))
        .arg(lines)
        .arg(peft.get_program())
        .args(peft.get_args())
        .current_dir(place.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The text after the dashboard.
fn after(seen: &Value) -> &str {
    assert_eq!((&seen["entered"], &seen["left"], &seen["restored"]), (&1.into(), &1.into(), &true.into()), "{seen}");
    seen["text"].as_str().unwrap().rsplit("\u{1b}[?1049l").next().unwrap()
}

#[test]
fn ctrl_c_on_the_dashboard_saves_the_step_and_says_how_to_go_on() {
    let place = Place::new();
    let line = "train run.toml --set training.max_steps=5000 --set training.save_steps=5000";
    let seen = in_terminal(&place, "3", line);
    assert_eq!(seen["code"], 130, "{seen}");
    let said = after(&seen);
    assert!(said.contains("stopped by Ctrl-C (SIGINT)") && said.contains("--resume"), "{said}");
    let lines = place.metrics("run");
    let step = lines.iter().rev().find(|line| line["split"] == "train").unwrap()["step"].as_u64().unwrap();
    assert!(step >= 3 && step < 5000, "step {step}");
    assert!(place.path(&format!("run/checkpoints/step-{step}/trainer_state.json")).exists(), "step {step}");
}

#[test]
fn a_second_ctrl_c_ends_the_dashboard_at_once_and_leaves_the_terminal_as_it_was() {
    let place = Place::new();
    // One step of minutes.
    let seen = in_terminal(&place, "0,0", "train run.toml --set training.gradient_accumulation_steps=200000");
    assert_eq!((&seen["code"], &seen["pressed"]), (&130.into(), &2.into()), "{seen}");
    after(&seen);
    assert!(place.metrics("run").is_empty());
}

#[test]
fn a_run_on_the_dashboard_ends_by_itself() {
    let place = Place::new();
    let seen = in_terminal(&place, "100", "train run.toml --set training.max_steps=30");
    assert_eq!((&seen["code"], &seen["pressed"]), (&0.into(), &0.into()), "{seen}");
    assert!(after(&seen).contains("adapter"), "{seen}");
}
