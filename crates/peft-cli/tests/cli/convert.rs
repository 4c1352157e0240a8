//! `peft convert`: what it writes computes what the adapter computed, and it never writes over anything.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use llama_burn::{Input, Llama};
use peft_burn::AdapterFiles;
use peft_burn::tensor_file::{TensorFile, write_tensors};
use peft_burn_workspace::{python_with, run_script};
use serde_json::json;

use crate::support::Place;

fn golden(name: &str) -> PathBuf {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens");
    goldens.join(name).canonicalize().unwrap()
}

fn input_ids() -> TensorData {
    TensorFile::open(golden("inputs.safetensors")).unwrap().read("input_ids").unwrap()
}

/// The logits of the golden base with an adapter.
fn logits(adapter: &Path) -> TensorData {
    let mut model = Llama::from_dir(golden("base"), None, &Device::flex()).unwrap();
    model.load_adapter(adapter, "x", false).unwrap();
    let ids = input_ids();
    let width = ids.shape()[1];
    let rows: Vec<Vec<u32>> =
        ids.iter::<i64>().map(|id| id as u32).collect::<Vec<_>>().chunks(width).map(<[u32]>::to_vec).collect();
    model.forward(&Input::from_rows(&rows, &Device::flex())).into_data()
}

/// The largest difference over the largest magnitude.
fn difference(a: &TensorData, b: &TensorData) -> f64 {
    let largest = b.iter::<f64>().fold(0.0, |m: f64, v| m.max(v.abs()));
    a.iter::<f64>().zip(b.iter::<f64>()).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs())) / largest
}

fn line(place: &Place, adapter: &str, more: &str) -> String {
    let (adapter, base) = (golden(adapter).display().to_string(), golden("base").display().to_string());
    let output = place.path("out").display().to_string();
    format!("convert --to lora {adapter} --model {base} --output {output} {more}")
}

#[test]
fn vera_and_adalora_become_lora_exactly() {
    for (name, from) in [("vera/adapter", "VeRA"), ("adalora/adapter_final", "AdaLoRA"), ("lora/adapter", "LoRA")] {
        let place = Place::new();
        let said = place.ok(&line(&place, name, "--json")).json();
        assert_eq!((&said["from"], &said["to"]), (&json!(from), &json!("LoRA")));
        assert_eq!((&said["exact"], &said["largest_error"]), (&json!(true), &json!(0.0)));
        let config: serde_json::Value = serde_json::from_slice(&place.read("out/adapter_config.json")).unwrap();
        assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &said["rank"]));
        assert!(difference(&logits(&place.path("out")), &logits(&golden(name))) < 1e-5, "{name}");
    }
}

#[test]
fn dora_and_ia3_come_nearer_as_the_rank_grows_and_say_how_near() {
    for name in ["dora/adapter", "ia3/adapter"] {
        let expected = logits(&golden(name));
        let mut errors = Vec::new();
        for rank in [4, 32, 64] {
            let place = Place::new();
            let said = place.ok(&line(&place, name, &format!("--rank {rank} --json"))).json();
            let modules = said["errors"].as_object().unwrap();
            let largest = modules.values().map(|e| e.as_f64().unwrap()).fold(0.0, f64::max);
            assert_eq!(said["largest_error"].as_f64().unwrap(), largest);
            assert!(said["rank"].as_u64().unwrap() <= rank);
            errors.push((largest, difference(&logits(&place.path("out")), &expected)));
        }
        assert!(errors[0].0 > errors[1].0 && errors[1].0 > errors[2].0, "{name}: {errors:?}");
        assert!(errors[2].0 < 1e-5 && errors[2].1 < 1e-4, "{name} at full rank: {errors:?}");
        let place = Place::new();
        let said = place.ok(&line(&place, name, "--rank 4"));
        assert!(said.out.contains("q_proj") || said.out.contains("k_proj"), "{}", said.out);
        assert!(said.out.contains("a higher --rank comes nearer"), "{}", said.out);
    }
}

#[test]
fn what_cannot_be_converted_is_refused_and_nothing_is_written() {
    let place = Place::new();
    place.run(&line(&place, "dora/adapter", "")).fails_with(&["DoRA", "--rank 32"]);
    place.run(&line(&place, "ia3/adapter", "")).fails_with(&["IA3", "--rank 32"]);
    place.run(&line(&place, "vera/adapter", "--rank 0")).fails_with(&["rank 0", "1 or more"]);
    place.run(&line(&place, "vera", "")).fails_with(&["is not an adapter", "adapter_config.json"]);
    assert!(!place.path("out").exists());
    let unknown = line(&place, "vera/adapter", "").replace("--to lora", "--to ia3");
    assert_eq!(place.run(&unknown).code, 2);

    place.write("out/notes.txt", "mine");
    place.run(&line(&place, "vera/adapter", "")).fails_with(&["exists already", "choose another --output"]);
    assert_eq!(std::fs::read_dir(place.path("out")).unwrap().count(), 1);

    let place = Place::new();
    let adapter = place.path("adapter");
    std::fs::create_dir(&adapter).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(golden("vera/adapter").join(name), adapter.join(name)).unwrap();
    }
    let mut config: serde_json::Value = serde_json::from_slice(&place.read("adapter/adapter_config.json")).unwrap();
    config["base_model_name_or_path"] = json!(null);
    place.write("adapter/adapter_config.json", &config.to_string());
    place.run("convert --to lora adapter --output out").fails_with(&["does not name the model", "--model"]);
    config["base_model_name_or_path"] = json!(golden("base"));
    place.write("adapter/adapter_config.json", &config.to_string());
    place.ok("convert --to lora adapter --output out");
    assert!(difference(&logits(&place.path("out")), &logits(&adapter)) < 1e-5);
}

#[test]
fn peft_opens_what_is_converted() {
    let Some(python) = python_with(&["peft", "torch", "transformers"]) else { return };
    let place = Place::new();
    let ids = [("input_ids".to_owned(), input_ids())].into();
    write_tensors(place.path("inputs.safetensors"), &ids, &[]).unwrap();
    let cases = [
        ("vera/adapter", ""),
        ("adalora/adapter_final", ""),
        ("dora/adapter", "--rank 8"),
        ("ia3/adapter", "--rank 8"),
    ];
    let mut jobs = Vec::new();
    for (at, (name, more)) in cases.into_iter().enumerate() {
        let output = place.path(&format!("lora{at}"));
        place
            .ok(&line(&place, name, more)
                .replace(&place.path("out").display().to_string(), &output.display().to_string()));
        jobs.push(json!({ "base": golden("base"), "adapter": output, "out": place.path(&format!("logits{at}")) }));
    }
    place.write("jobs.json", &json!(jobs).to_string());
    run_script(&python, "open_with_peft.py", &place.path("jobs.json"));
    for (at, (name, _)) in cases.iter().enumerate() {
        let theirs = TensorFile::open(place.path(&format!("logits{at}"))).unwrap().read("logits").unwrap();
        assert!(difference(&logits(&place.path(&format!("lora{at}"))), &theirs) < 1e-5, "{name}");
    }
}
