//! Models as people have them (`tests/python/checkpoint_cases.py`), through the binary: the loss that Transformers computes, or a
//! refusal that names what it is about.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Place, fixtures};

fn case(name: &str) -> PathBuf {
    fixtures().join("checkpoints").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(case("expected.json")).unwrap()).unwrap()
}

fn right(name: &str) -> f64 {
    expected()["losses"][name].as_f64().unwrap()
}

fn rows() -> PathBuf {
    case("rows.jsonl")
}

/// An adapter for models of this shape.
fn adapter() -> PathBuf {
    fixtures().join("adapters/plain")
}

fn edit(place: &Place, file: &str, keys: Value) {
    let mut config: Value = serde_json::from_slice(&place.read(file)).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    place.write(file, &config.to_string());
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn every_checkpoint_computes_what_transformers_computes() {
    let place = Place::new();
    for (name, right) in expected()["losses"].as_object().unwrap() {
        let loss = place.loss(&case(name), None, &rows());
        assert!((loss - right.as_f64().unwrap()).abs() < 1e-5, "{name}: {loss}, and Transformers has {right}");
        let shown = place.ok(&format!("inspect {} --json", case(name).display())).json();
        assert_eq!(shown["problems"], json!([]), "{name}");
    }
}

#[test]
fn what_is_unusual_is_said_once_by_every_command() {
    let place = Place::new();
    for (name, parts) in [
        ("head_differs", &["tie_word_embeddings is true", "the stored head is used"][..]),
        ("without_prefix", &["`embed_tokens.weight` is read as `model.embed_tokens.weight`"]),
        ("wrapped", &["`module._orig_mod.lm_head.weight` is read as `lm_head.weight`", "the stored head is used"]),
        ("extra_tensors", &["v_head.summary.weight", "rotary_emb.inv_freq", "masked_bias"]),
    ] {
        let (model, adapter, rows) = (case(name), adapter(), rows());
        place.write(
            "more.toml",
            &format!(
                "output = \"run\"\n[model]\npath = {model:?}\n[adapter]\nfrom = {adapter:?}\n[data]\ntrain = {rows:?}\n[training]\n\
                 max_steps = 1\n"
            ),
        );
        let said = [
            place.eval(&model, None, &rows).err,
            place.ok(&format!("merge --model {} --adapter {} --output merged", model.display(), adapter.display())).err,
            place.ok("train more.toml").err,
            place.ok(&format!("inspect {}", model.display())).err,
        ];
        for (said, part) in said.iter().flat_map(|said| parts.iter().map(move |part| (said, part))) {
            assert_eq!(said.matches(part).count(), 1, "{name}: {part} in {said}");
        }
        for folder in ["run", "merged"] {
            std::fs::remove_dir_all(place.path(folder)).unwrap();
        }
    }
    for name in ["tied", "tied_repeated", "bin", "settings"] {
        assert!(!place.eval(&case(name), None, &rows()).err.contains("warning"), "{name}");
    }
}

#[test]
fn a_merge_keeps_what_the_base_computes_and_transformers_opens_it() {
    let place = Place::new();
    let mut jobs = Vec::new();
    let mut ours = Vec::new();
    for name in
        ["head_differs", "head_differs_bin", "without_prefix", "extra_tensors", "bin_sharded", "bin_views", "settings"]
    {
        let (base, merged) = (case(name), place.path(name));
        let line = format!("merge --model {} --adapter {} --output {name} --json", base.display(), adapter().display());
        let report = place.ok(&line).json();
        let differs = name.starts_with("head_differs");
        assert_eq!(report["untied_head"], differs, "{name}");
        assert_eq!(config_of(&merged)["tie_word_embeddings"], !differs, "{name}");
        let loss = place.loss(&merged, None, &rows());
        assert!((loss - place.loss(&base, Some(&adapter()), &rows())).abs() < 1e-5, "{name}");
        ours.push(loss);
        jobs.push(json!({"model": merged, "rows": rows()}));
    }
    assert!((ours[0] - ours[2]).abs() > 1e-3, "the head makes a difference: {ours:?}");
    if let Some(there) = place.losses_there(&jobs) {
        assert!(there.iter().zip(&ours).all(|(a, b)| (a - b).abs() < 1e-5), "{there:?} and {ours:?}");
    }
}

#[test]
fn auto_keeps_the_dtype_of_the_files() {
    let place = Place::new();
    let loss = |name: &str, dtype: &str| {
        let line = format!("eval --json --model {} --data {} --dtype {dtype}", case(name).display(), rows().display());
        place.ok(&line).json()["loss"].as_f64().unwrap()
    };
    for (name, dtype) in [("bin_bf16", "bf16"), ("bin_f16", "f16"), ("tied", "f32")] {
        assert_eq!(loss(name, "auto"), loss(name, dtype), "{name}");
    }
    assert_ne!(loss("bin_bf16", "auto"), loss("bin_bf16", "f32"));
    let (model, rows) = (case("bin_bf16"), rows());
    place.write(
        "auto.toml",
        &format!(
            "output = \"run\"\n[model]\npath = {model:?}\ndtype = \"auto\"\n[adapter]\npeft_type = \"LORA\"\n[data]\ntrain = {rows:?}\n\
             [training]\nmax_steps = 1\nper_device_train_batch_size = 3\n"
        ),
    );
    let first = |place: &Place| place.ok("train auto.toml --json --overwrite").json()["first_loss"].as_f64().unwrap();
    let auto = first(&place);
    place.write("auto.toml", &String::from_utf8(place.read("auto.toml")).unwrap().replace("auto", "bf16"));
    assert_eq!(auto, first(&place));
    place.write(
        "auto.toml",
        &String::from_utf8(place.read("auto.toml")).unwrap().replace("bf16\"\n[adapter]", "f32\"\n[adapter]"),
    );
    assert_ne!(auto, first(&place));
}

/// Half of the weights of attention are gone in a step, the same ones when the run is repeated, and none in an evaluation.
#[test]
fn attention_dropout_acts_in_training_alone() {
    let place = Place::new();
    let run = |model: &Path, name: &str, more: &str| {
        let rows = rows();
        place.write(
            "drop.toml",
            &format!(
                "output = {name:?}\n[model]\npath = {model:?}\n[adapter]\npeft_type = \"LORA\"\nr = 2\n[data]\ntrain = {rows:?}\n\
                 valid = {rows:?}\n[training]\nmax_steps = 2\nlearning_rate = 1e-3\nper_device_train_batch_size = 3\n{more}"
            ),
        );
        place.run("train drop.toml --json")
    };
    let model = place.copy(&case("settings"), "model");
    let first = |name: &str, model: &Path| run(model, name, "").json()["first_loss"].as_f64().unwrap();
    let (one, two, without) = (first("one", &model), first("two", &model), first("without", &case("tied")));
    assert_eq!(one, two);
    assert!((without - right("tied")).abs() < 1e-4 && (one - without).abs() > 1e-3, "{one} and {without}");
    assert!((place.loss(&model, None, &rows()) - right("tied")).abs() < 1e-5);
    run(&model, "three", "gradient_checkpointing = true\n").fails_with(&["dropout", "0.25"]);
    // The way out, followed.
    edit(&place, "model/config.json", json!({"attention_dropout": 0.0}));
    let said = run(&model, "three", "gradient_checkpointing = true\n");
    assert_eq!(said.code, 0, "{}", said.err);
}

#[test]
fn what_does_not_fit_is_told_all_at_once_with_both_sizes() {
    let place = Place::new();
    let model = place.copy(&case("tied"), "model");
    edit(&place, "model/config.json", json!({"vocab_size": 60, "intermediate_size": 40}));
    let said = place.eval(&model, None, &rows());
    said.fails_with(&["model.embed_tokens.weight is [64, 32], expected [60, 32]"]);
    said.fails_with(&["layers.1.mlp.down_proj.weight is [32, 48], expected [32, 40]", "of another shape (7)"]);
    place.copy(&case("tied"), "model");
    edit(&place, "model/config.json", json!({"tie_word_embeddings": false, "num_hidden_layers": 1}));
    let said = place.eval(&model, None, &rows());
    said.fails_with(&[
        "lm_head.weight (where the head is the embedding",
        "unexpected",
        "model.layers.1.mlp.up_proj.weight",
    ]);
    edit(&place, "model/config.json", json!({"tie_word_embeddings": true, "num_hidden_layers": 2}));
    place.loss(&model, None, &rows());

    let model = place.copy(&case("bin_sharded"), "shards");
    std::fs::remove_file(model.join("pytorch_model-00002-of-00002.bin")).unwrap();
    place.eval(&model, None, &rows()).fails_with(&["pytorch_model-00002-of-00002.bin", "fetch it again"]);
    place.copy(&case("bin_sharded"), "shards");
    place.loss(&model, None, &rows());

    for (file, content, parts) in [
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid", &["Git LFS", "git lfs pull"][..]),
        ("pytorch_model.bin", "PK\u{3}\u{4}", &["pytorch_model.bin is not a readable PyTorch file", "fetch it again"]),
        ("model-q4.gguf", "GGUF", &["model-q4.gguf", "give the file itself as the model"]),
        ("consolidated.00.pth", "x", &["consolidated.00.pth", "convert_llama_weights_to_hf.py"]),
        ("notes.txt", "x", &["model.safetensors (or pytorch_model.bin)", "fetch it again"]),
    ] {
        let place = Place::new();
        let model = place.copy(&case("tied"), "model");
        std::fs::remove_file(model.join("model.safetensors")).unwrap();
        place.write(&format!("model/{file}"), content);
        place.eval(&model, None, &rows()).fails_with(parts);
    }
}

#[test]
fn an_adapted_checkpoint_that_is_not_merged_is_named() {
    use peft_burn::tensor_file::{TensorFile, write_tensors};
    let place = Place::new();
    let model = place.copy(&case("tied"), "model");
    let path = model.join("model.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let mut tensors: std::collections::BTreeMap<_, _> =
        file.names().map(|name| (name.to_owned(), file.read(name).unwrap())).collect();
    let norm = tensors["model.norm.weight"].clone();
    tensors.insert("model.layers.0.self_attn.q_proj.lora_A.default.weight".into(), norm.clone());
    tensors.insert("model.layers.0.self_attn.q_proj.bias".into(), norm);
    drop(file);
    write_tensors(&path, &tensors, &[]).unwrap();
    let said = place.eval(&model, None, &rows());
    said.fails_with(&["lora_A.default.weight (of an adapter that is not merged", "q_proj.bias"]);
}
