//! Quantised bases on the command line.

use crate::support::{Place, glassllm};

const NF4: &str = "--set model.quantization=nf4 --set model.double_quantization=true";

fn size(place: &Place, folder: &str) -> u64 {
    std::fs::metadata(place.path(folder).join("model.safetensors")).unwrap().len()
}

#[test]
fn two_lines_of_a_configuration_make_it_a_4_bit_run_that_learns_and_goes_through_every_command() {
    let place = Place::new();
    let model = glassllm().display().to_string();
    place.ok(&format!("train run.toml {NF4}"));
    let config = String::from_utf8(place.read("run/config.toml")).unwrap();
    assert!(config.contains("quantization = \"nf4\"") && config.contains("double_quantization = true"), "{config}");
    let packed = "--quantization nf4 --double-quantization";
    let loss = |options: &str| {
        let said = place.ok(&format!("eval --model {model} --data train.jsonl --json {options}"));
        (said.json()["loss"].as_f64().unwrap(), said.err)
    };
    let ((before, _), (after, said)) = (loss(packed), loss(&format!("{packed} --adapter run/adapter")));
    assert!(after < 0.7 * before, "{before} to {after}");
    assert!(!said.contains("quantised"), "{said}");
    // On another base than its own it is said.
    let (_, said) = loss("--adapter run/adapter");
    assert!(said.contains("trained on a base quantised as nf4 (double), and this one is not quantised"), "{said}");
    place.ok(&format!("generate --model {model} {packed} --adapter run/adapter --prompt Alice --max-new-tokens 4"));

    place.ok(&format!("quantize --model {model} --output nf4 {packed}"));
    let dense = std::fs::metadata(glassllm().join("model.safetensors")).unwrap().len();
    assert!(size(&place, "nf4") < dense / 2, "{} of {dense}", size(&place, "nf4"));
    // The directory is the model with the same codes.
    let again = place.ok("eval --model nf4 --data train.jsonl --json --adapter run/adapter");
    assert!((again.json()["loss"].as_f64().unwrap() - after).abs() < 1e-6);
    let inspected = place.ok("inspect nf4");
    assert!(inspected.out.contains("NF4"), "{}", inspected.out);

    place.ok("merge --model nf4 --adapter run/adapter --output merged");
    assert!(size(&place, "merged") > dense / 2);
    let merged = place.ok("eval --model merged --data train.jsonl --json").json()["loss"].as_f64().unwrap();
    assert!((merged - after).abs() < 1e-4, "{merged} and {after}");
    let said = place.ok(&format!("merge --model nf4 --adapter run/adapter --output small {packed}"));
    assert!(said.out.contains("% of the update is left"), "{}", said.out);
    assert!(size(&place, "small") < dense / 2);
    place.ok("eval --model small --data train.jsonl");
}

#[test]
fn a_quantised_run_goes_on_to_the_bit() {
    let run = format!("train run.toml {NF4} --set training.lr_scheduler_type=constant");
    let (whole, part) = (Place::new(), Place::new());
    whole.ok(&run);
    part.ok(&format!("{run} --set training.max_steps=8"));
    part.ok(&format!("{run} --resume"));
    let weights = |place: &Place| place.read("run/adapter/adapter_model.safetensors");
    assert!(weights(&whole) == weights(&part), "the adapters differ");
}

#[test]
fn what_has_no_meaning_is_refused() {
    let place = Place::new();
    let model = glassllm().display().to_string();
    place
        .run("train run.toml --set model.double_quantization=true")
        .fails_with(&["model.double_quantization", "nf4 or fp4"]);
    place
        .run("train run.toml --set model.skip_modules=[\"o_proj\"]")
        .fails_with(&["model.skip_modules", "model.quantization"]);
    place.run("train run.toml --set model.quantization=nf5").fails_with(&["model.quantization", "nf4"]);
    place
        .run(&format!("quantize --model {model} --output out --quantization int8 --double-quantization"))
        .fails_with(&["--double-quantization is for the 4-bit formats"]);
    place.run(&format!("quantize --model {model} --output out --quantization none")).fails_with(&["packs nothing"]);
    assert!(!place.path("out").exists());
    place
        .run("train run.toml --set model.quantization=nf4 --set adapter.init_lora_weights=pissa")
        .fails_with(&["pissa", "quantised base"]);
    let config = glassllm().join("config.json");
    let gptq = std::fs::read_to_string(config).unwrap().replacen(
        '{',
        r#"{"quantization_config": {"quant_method": "gptq"},"#,
        1,
    );
    place.write("gptq/config.json", &gptq);
    place.run("generate --model gptq --prompt x").fails_with(&[
        "gptq/config.json",
        "\"gptq\"",
        "only \"bitsandbytes\" is read",
    ]);
}

#[test]
fn the_memory_of_a_run_is_told_before_it_starts() {
    let place = Place::new();
    let estimate = |options: &str| place.ok(&format!("estimate run.toml --json {options}")).json();
    let bytes = |json: &serde_json::Value, key: &str| json[key].as_u64().unwrap();
    let (dense, packed) = (estimate(""), estimate(NF4));
    assert!(bytes(&packed, "weights") < bytes(&dense, "weights") / 2, "{packed} of {dense}");
    assert_eq!(dense["activations"], packed["activations"]);
    let longer = estimate("--set data.max_length=128");
    assert_eq!(bytes(&longer, "activations"), 2 * bytes(&dense, "activations"));
    let again = estimate("--set training.gradient_checkpointing=true");
    assert!(bytes(&again, "activations") < bytes(&dense, "activations"));
    let room = estimate("--memory 1GB");
    assert!(room["fits"] == true && room["tokens"].as_u64().unwrap() > 128, "{room}");
    // A directory that is packed already takes what its files do.
    let model = glassllm().display().to_string();
    place.ok(&format!("quantize --model {model} --output nf4 --quantization nf4 --double-quantization"));
    let stored = estimate("--set model.path=nf4");
    let difference = bytes(&stored, "weights").abs_diff(bytes(&packed, "weights"));
    assert!(difference < bytes(&packed, "weights") / 20, "{stored} and {packed}");
    place
        .run("estimate run.toml --memory 1MB")
        .fails_with(&["the weights and the adapter alone do not fit in 1.00 MB", "model.quantization"]);
    assert_eq!(place.run("estimate run.toml --memory 3parsecs").code, 2);
}
