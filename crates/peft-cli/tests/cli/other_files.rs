//! Adapters in other files and under other names than PEFT writes today.

use serde_json::Value;

use crate::adapters::{base_and_rows, cases, expected, with_keys, works};
use crate::support::Place;

#[test]
fn files_of_torch_save_load_and_damaged_ones_are_told() {
    for case in ["bin", "bin_legacy", "bin_bf16", "bin_f16_legacy"] {
        assert!(!works(case).contains("warning"), "{case}");
    }
    let place = Place::new();
    let (base, rows) = base_and_rows("bin");
    let adapter = place.copy(&cases().join("bin"), "adapter");
    let file = adapter.join("adapter_model.bin");
    let bytes = std::fs::read(&file).unwrap();
    for (content, parts) in [
        (&bytes[..bytes.len() / 2], &["adapter_model.bin is not a readable PyTorch file", "fetch it again"][..]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", &["Git LFS", "git lfs pull"]),
        (b"<!DOCTYPE html><html>", &["a web page"]),
    ] {
        std::fs::write(&file, content).unwrap();
        place.eval(&base, Some(&adapter), &rows).fails_with(parts);
    }
    std::fs::remove_file(&file).unwrap();
    place.eval(&base, Some(&adapter), &rows).fails_with(&["adapter_model.safetensors"]);
}

/// Each help line is followed: what it says makes the adapter usable, here and in PEFT.
#[test]
fn adapters_of_other_programs_are_named_and_converted() {
    let mut jobs = Vec::new();
    let place = Place::new();
    let (base, rows) = base_and_rows("plain");
    for case in ["mlx_lora", "mlx_dora"] {
        let adapter = cases().join(case);
        place.eval(&base, Some(&adapter), &rows).fails_with(&["is of mlx-lm, not of PEFT", "peft convert --to peft"]);
        place.run(&format!("inspect {}", adapter.display())).fails_with(&["mlx-lm", "peft convert --to peft"]);
    }
    for case in ["mlx_lora", "mlx_dora", "vllm", "without_prefix", "dora_older", "with_adapter_name", "bin"] {
        let (adapter, out) = (cases().join(case), place.path(case));
        let line = format!("convert --to peft {} --output {case} --model {} --json", adapter.display(), base.display());
        let said = place.ok(&line).json();
        assert_eq!(said["to"], "PEFT");
        let said = place.eval(&base, Some(&out), &rows);
        assert!(!said.err.contains("warning"), "{case}: {}", said.err);
        assert!((said.json()["loss"].as_f64().unwrap() - expected(case)).abs() < 1e-5, "{case}");
        jobs.push((expected(case), serde_json::json!({"model": base, "adapter": out, "rows": rows})));
    }
    let (expected, jobs): (Vec<f64>, Vec<Value>) = jobs.into_iter().unzip();
    if let Some(there) = place.losses_there(&jobs) {
        assert!(there.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{there:?} and {expected:?}");
    }
    let line = format!("convert --to peft {} --output bin", cases().join("plain").display());
    place.run(&line).fails_with(&["exists already", "choose another --output"]);
    place.run(&format!("{line}2 --rank 3")).fails_with(&["leave --rank out"]);
    place.random_model("other");
    place.run(&format!("{line}2 --model other")).fails_with(&["of another shape"]);
    assert!(!place.path("bin2").exists());
}

#[test]
fn keys_of_other_releases_are_told_where_they_are_switched_on() {
    let place = Place::new();
    let (base, rows) = base_and_rows("plain");
    // As PEFT 0.2 wrote it.
    with_keys(&place, "plain", serde_json::json!({"enable_lora": null, "merge_weights": false}));
    let said = place.eval(&base, Some(&place.path("adapter")), &rows);
    assert!(said.code == 0 && !said.err.contains("warning"), "{}", said.err);
    with_keys(&place, "plain", serde_json::json!({"use_of_2030": true}));
    let said = place.eval(&base, Some(&place.path("adapter")), &rows);
    assert!(said.err.contains("unknown key `use_of_2030` ignored"), "{}", said.err);
    with_keys(&place, "plain", serde_json::json!({"enable_lora": [true, false, true]}));
    place.eval(&base, Some(&place.path("adapter")), &rows).fails_with(&["enable_lora = [true,false,true]"]);
}

#[test]
fn older_spellings_are_read_and_said() {
    for case in ["without_prefix", "with_adapter_name", "vllm", "dora_older", "dora_with_adapter_name"] {
        let said = works(case);
        assert!(said.contains("names are not as PEFT 0.21 writes them"), "{case}: {said}");
    }
}
