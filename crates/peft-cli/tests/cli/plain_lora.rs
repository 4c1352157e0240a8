//! PiSSA and OLoRA, which keep a part of the base in the adapter: `peft train` saves them as the plain LoRA that they are.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Place, fixtures};

fn base() -> PathBuf {
    fixtures().join("adapters/base")
}

fn rows() -> PathBuf {
    fixtures().join("adapters/rows.jsonl")
}

fn write(place: &Place, name: &str, adapter: &str, training: &str) {
    let (base, rows) = (base(), rows());
    let text = format!(
        "output = {name:?}\n[model]\npath = {base:?}\n[adapter]\npeft_type = \"LORA\"\nr = 4\nlora_alpha = 6\n{adapter}\n[data]\n\
         train = {rows:?}\n[training]\nlearning_rate = 1e-2\nlr_scheduler_type = \"constant\"\nper_device_train_batch_size = 3\n\
         save_steps = 2\n{training}\n"
    );
    place.write(&format!("{name}.toml"), &text);
}

fn config(adapter: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn a_run_writes_plain_lora_that_computes_the_same_here_and_in_peft() {
    let place = Place::new();
    let mut jobs = Vec::new();
    let mut ours = Vec::new();
    for (name, adapter) in [
        ("pissa", "init_lora_weights = \"pissa\""),
        ("olora", "init_lora_weights = \"olora\"\nuse_rslora = true"),
        ("niter", "init_lora_weights = \"pissa_niter_4\"\nrank_pattern = {v_proj = 2}\nalpha_pattern = {v_proj = 5}"),
        ("dora", "init_lora_weights = \"pissa\"\nuse_dora = true"),
    ] {
        write(&place, name, adapter, "max_steps = 4");
        let valid = place.ok(&format!("train {name}.toml --json")).json();
        let adapter = place.path(name).join("adapter");
        let saved = config(&adapter);
        assert_eq!((&saved["r"], &saved["init_lora_weights"]), (&json!(8), &json!(true)), "{name}");
        let said = place.eval(&base(), Some(&adapter), &rows());
        assert!(!said.err.contains("warning"), "{name}: {}", said.err);
        let loss = said.json()["loss"].as_f64().unwrap();
        assert!(loss < valid["loss"].as_f64().unwrap(), "{name}: one step after the last loss: {loss} {valid}");
        ours.push(loss);
        jobs.push(json!({"model": base(), "adapter": adapter, "rows": rows()}));
        // The checkpoints' adapters are the same kind, and the last one is the result.
        let last = place.path(name).join("checkpoints/step-4/adapter");
        assert!((place.loss(&base(), Some(&last), &rows()) - loss).abs() < 1e-6, "{name}");
    }
    // As it is, and loaded again by taking the same part out of the base.
    write(&place, "kept", "init_lora_weights = \"pissa\"", "max_steps = 4\nsave_as_lora = false");
    place.ok("train kept.toml");
    let adapter = place.path("kept/adapter");
    assert_eq!((&config(&adapter)["r"], &config(&adapter)["init_lora_weights"]), (&json!(4), &json!("pissa")));
    assert!((place.loss(&base(), Some(&adapter), &rows()) - ours[0]).abs() < 1e-5);
    write(&place, "drawn", "init_lora_weights = \"pissa_niter_4\"", "max_steps = 4\nsave_as_lora = false");
    place.run("train drawn.toml").fails_with(&["save_as_lora = false", "pissa_niter_4", "leave save_as_lora out"]);
    assert!(!place.path("drawn").exists());
    if let Some(there) = place.losses_there(&jobs) {
        assert!(there.iter().zip(&ours).all(|(a, b)| (a - b).abs() < 1e-5), "{there:?} and {ours:?}");
    }
}

#[test]
fn a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped() {
    let place = Place::new();
    for init in ["pissa", "pissa_niter_4", "olora"] {
        let adapter = format!("init_lora_weights = \"{init}\"");
        write(&place, "whole", &adapter, "max_steps = 4");
        place.ok("train whole.toml --overwrite");
        write(&place, "parts", &adapter, "max_steps = 2");
        place.ok("train parts.toml --overwrite");
        write(&place, "parts", &adapter, "max_steps = 4");
        place.ok("train parts.toml --resume");
        let [whole, parts] =
            ["whole", "parts"].map(|name| place.loss(&base(), Some(&place.path(name).join("adapter")), &rows()));
        assert!((whole - parts).abs() < 1e-6, "{init}: {whole} and {parts}");
        let names = ["whole", "parts"].map(|run| place.metrics(run).len());
        assert_eq!(names, [4, 4], "{init}");
    }
}
