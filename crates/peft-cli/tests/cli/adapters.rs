//! Adapters as people have them (`tests/python/adapter_cases.py`), through the binary: the loss that PEFT computes, or a
//! refusal that names what it is about.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Place, fixtures};

pub fn cases() -> PathBuf {
    fixtures().join("adapters")
}

/// The loss that PEFT computes with the adapter.
pub fn expected(case: &str) -> f64 {
    let text = std::fs::read(cases().join("expected.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()[case].as_f64().unwrap()
}

/// The base that an adapter was made on, and the rows that it is measured on.
pub fn base_and_rows(case: &str) -> (PathBuf, PathBuf) {
    let base = if ["resized_untied", "projection_with_bias", "all_biases"].contains(&case) { "bias" } else { "base" };
    let rows = if case.starts_with("resized") { "rows_resized.jsonl" } else { "rows.jsonl" };
    (cases().join(base), cases().join(rows))
}

/// The case loads, measures, is inspected and merged to what PEFT computes. Returns what loading said.
pub fn works(case: &str) -> String {
    let place = Place::new();
    let (base, rows) = base_and_rows(case);
    let adapter = cases().join(case);
    let close = |loss: f64, what: &str| {
        assert!((loss - expected(case)).abs() < 1e-5, "{case} {what}: {loss}, and PEFT has {}", expected(case));
    };
    let said = place.eval(&base, Some(&adapter), &rows);
    assert_eq!(said.code, 0, "{case}: {}", said.err);
    close(said.json()["loss"].as_f64().unwrap(), "loaded");

    let (base, adapter) = (base.to_str().unwrap(), adapter.to_str().unwrap());
    let inspected = place.ok(&format!("inspect {adapter} --model {base} --json")).json();
    assert_eq!(inspected["problems"], serde_json::json!([]), "{case}");
    assert_eq!(inspected["fits_model"], true, "{case}");

    place.ok(&format!("merge --model {base} --adapter {adapter} --output merged"));
    close(place.eval(&place.path("merged"), None, &rows).json()["loss"].as_f64().unwrap(), "merged");
    said.err
}

/// The case is refused with these words, by every command and by `inspect`, and nothing is written.
fn refused(case: &str, parts: &[&str]) {
    let place = Place::new();
    let (base, rows) = base_and_rows(case);
    let adapter = cases().join(case);
    place.eval(&base, Some(&adapter), &rows).fails_with(parts);
    let (base, adapter) = (base.to_str().unwrap(), adapter.to_str().unwrap());
    place.run(&format!("merge --model {base} --adapter {adapter} --output merged")).fails_with(parts);
    assert!(!place.path("merged").exists());
    let inspected = place.ok(&format!("inspect {adapter} --model {base} --json")).json();
    let problems = inspected["problems"].to_string().replace("\\\"", "\"");
    parts.iter().for_each(|part| assert!(problems.contains(part), "{part:?} is not in {problems}"));
    assert_eq!(inspected["fits_model"], false);
}

/// A copy of a case with other keys in its configuration.
pub fn with_keys(place: &Place, case: &str, keys: Value) {
    place.copy(&cases().join(case), "adapter");
    let mut config: Value = serde_json::from_slice(&place.read("adapter/adapter_config.json")).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    place.write("adapter/adapter_config.json", &config.to_string());
}

#[test]
fn how_an_adapter_began_does_not_matter() {
    for case in ["plain", "dora", "eva", "orthogonal", "pissa", "olora"] {
        assert!(!works(case).contains("warning"), "{case}");
    }
    for case in ["corda", "loftq"] {
        let said = works(case);
        assert!(
            said.contains(&format!("init_lora_weights = \"{case}\"")) && said.contains("changed the base"),
            "{said}"
        );
    }
    let said = works("init_to_come");
    assert!(said.contains("\"of_2030\" is not known here"), "{said}");
}

#[test]
fn names_of_other_architectures_are_a_warning_where_the_tensors_fit() {
    let said = works("other_targets");
    assert!(said.contains("`c_attn`") && said.contains("`query_key_value`"), "{said}");
    works("other_modules_to_save");
}

#[test]
fn copies_of_the_base_beside_an_adapter_are_spared() {
    for case in ["head_target", "embedding_target", "head_and_embedding_target", "save_emb"] {
        assert!(!works(case).contains("warning"), "{case}");
    }
}

#[test]
fn embedding_and_head_beside_an_adapter_are_used_also_in_another_size() {
    for case in ["save_emb_trained", "resized", "resized_mts", "resized_untied"] {
        works(case);
    }
}

#[test]
fn tied_pairs_load_as_they_were_trained() {
    for case in ["mts_tie", "mts_tie_head", "tokens_tie", "target_tie"] {
        assert!(!works(case).contains("warning"), "{case}");
    }
}

#[test]
fn other_parameters_are_trained_copies() {
    for case in ["projection_with_bias", "all_biases", "norms", "norm_and_embedding", "longlora"] {
        assert!(!works(case).contains("warning"), "{case}");
    }
}

#[test]
fn norms_beside_an_adapter_are_used_though_no_configuration_says_so() {
    let place = Place::new();
    let (base, rows) = base_and_rows("norms");
    with_keys(&place, "norms", serde_json::json!({"modules_to_save": null}));
    let said = place.eval(&base, Some(&place.path("adapter")), &rows);
    assert!((said.json()["loss"].as_f64().unwrap() - expected("norms")).abs() < 1e-5);
    assert!(said.err.contains("modules_to_save leaves these out") && said.err.contains("model.norm"), "{}", said.err);
    let inspected = place.ok(&format!("inspect adapter --model {}", base.display()));
    assert_eq!(inspected.err.matches("modules_to_save leaves these out").count(), 1, "{}", inspected.err);
}

#[test]
fn norms_are_trained_and_peft_opens_them() {
    let place = Place::new();
    let (base, rows) = base_and_rows("norms");
    let config = format!(
        "output = \"run\"\n[model]\npath = {base:?}\n[adapter]\npeft_type = \"LORA\"\nr = 4\n\
         modules_to_save = [\"embed_tokens\", \"norm\"]\ntarget_modules = [\"q_proj\"]\n[data]\ntrain = {rows:?}\n\
         [training]\nmax_steps = 3\nlearning_rate = 1e-2\nper_device_train_batch_size = 3\n"
    );
    place.write("norms.toml", &config);
    let before = place.loss(&base, None, &rows);
    place.ok("train norms.toml");
    let adapter = place.path("run/adapter");
    let loss = place.loss(&base, Some(&adapter), &rows);
    assert!(loss < before - 0.05, "{before} to {loss}");
    place.ok(&format!("merge --model {} --adapter run/adapter --output merged", base.display()));
    assert!((place.loss(&place.path("merged"), None, &rows) - loss).abs() < 1e-5);
    let jobs = [
        serde_json::json!({"model": base, "adapter": adapter, "rows": rows}),
        serde_json::json!({"model": place.path("merged"), "rows": rows}),
    ];
    for there in place.losses_there(&jobs).into_iter().flatten() {
        assert!((there - loss).abs() < 1e-5, "{there} and {loss}");
    }
}

#[test]
fn vocabularies_of_several_sizes_never_meet() {
    use burn::tensor::Device;
    use llama_burn::{Input, Llama};
    use peft_burn::{AdapterFiles, MixedBatch, PeftModel};

    let mut model = Llama::from_dir(cases().join("base"), None, &Device::flex()).unwrap();
    for (name, case) in [("large", "resized"), ("head", "head_target"), ("rows", "tokens_tie"), ("whole", "mts_tie")] {
        model.load_adapter(cases().join(case), name, false).unwrap();
    }
    for other in ["head", "rows", "whole"] {
        for pair in [["large", other], [other, "large"]] {
            let error = model.set_adapter(&pair).unwrap_err().to_string();
            assert!(error.contains("at a time") && error.contains("large"), "{error}");
            assert!(model.merge_adapters(&pair, true).is_err());
        }
    }
    for pair in [["large", "head"], ["large", "__base__"]] {
        let error = model.mixed_batch(&pair).unwrap_err().to_string();
        assert!(error.contains("70") && error.contains("64") && error.contains("one vocabulary"), "{error}");
    }
    let mut merged = model.clone();
    merged.merge_adapters(&["large"], true).unwrap();
    let error = merged.set_adapter(&["head"]).unwrap_err().to_string();
    assert!(error.contains("activate `head`") && error.contains("unmerge first"), "{error}");
    merged.unmerge_adapters();
    merged.set_adapter(&["head"]).unwrap();
    let mixed = model.mixed_batch(&["large", "large"]).unwrap();
    assert_eq!(mixed.forward(&Input::from_rows(&[vec![1, 69], vec![2, 3]], &Device::flex())).dims(), [2, 2, 70]);
    let place = Place::new();
    let (large, head) = (cases().join("resized"), cases().join("head_target"));
    let base = cases().join("base");
    let line = format!("combine --model {} {}=1 {}=1 --output out", base.display(), large.display(), head.display());
    place.run(&line).fails_with(&["own for model.embed_tokens"]);
}

#[test]
fn a_base_that_cannot_be_made_again_is_refused_and_both_ways_out_work() {
    refused("pissa_niter_4", &["pissa_niter_4", "cannot be made again", "path_initial_model_for_weight_conversion"]);
    works("pissa_niter_4_as_lora");
    let place = Place::new();
    with_keys(&place, "pissa_niter_4", serde_json::json!({"init_lora_weights": true}));
    let (_, rows) = base_and_rows("pissa_niter_4");
    let loss = place.loss(&cases().join("pissa_niter_4_base"), Some(&place.path("adapter")), &rows);
    assert!((loss - expected("pissa_niter_4")).abs() < 1e-5, "{loss}");
}

#[test]
fn a_copy_of_another_base_is_named() {
    let place = Place::new();
    let (_, rows) = base_and_rows("head_target");
    let said = place.eval(&cases().join("base"), Some(&cases().join("head_target")), &rows);
    assert_eq!(said.code, 0);
    place.random_model("other");
    with_keys(&place, "head_target", serde_json::json!({}));
    let said = place.eval(&place.path("other"), Some(&place.path("adapter")), &rows);
    said.fails_with(&[
        "lm_head.base_layer.weight (a copy of another base: it is [64, 32], and this one's is [40, 16])",
    ]);
}

#[test]
fn features_that_change_what_tensors_mean_are_refused_all_at_once() {
    let place = Place::new();
    let keys = serde_json::json!({
        "alora_invocation_tokens": [5, 6], "layer_replication": [[0, 2], [0, 2]], "target_parameters": ["mlp.experts"],
        "arrow_config": {"top_k": 2}, "kasa_config": {"beta": 0.1}, "monteclora_config": {"samples": 8},
        "use_qalora": true, "use_bdlora": {"nblocks": 2}, "velora_config": {"num_groups": 2},
    });
    with_keys(&place, "plain", keys.clone());
    let (base, rows) = base_and_rows("plain");
    let said = place.eval(&base, Some(&place.path("adapter")), &rows);
    let names: Vec<&str> = keys.as_object().unwrap().keys().map(String::as_str).collect();
    said.fails_with(&names);
    said.fails_with(&["9 problems", "merge_and_unload()", "run it with PEFT"]);
    let inspected = place.ok("inspect adapter --json").json()["problems"].to_string();
    names.iter().for_each(|name| assert!(inspected.contains(name), "{name}: {inspected}"));
}

#[test]
fn training_goes_on_from_an_adapter_with_another_vocabulary() {
    let place = Place::new();
    let (base, rows) = base_and_rows("resized");
    let config = format!(
        "output = \"run\"\n[model]\npath = {base:?}\n[adapter]\nfrom = {:?}\n[data]\ntrain = {rows:?}\n[training]\nmax_steps = 3\n\
         learning_rate = 1e-2\nper_device_train_batch_size = 3\n",
        cases().join("resized")
    );
    place.write("more.toml", &config);
    place.ok("train more.toml");
    let loss = place.eval(&base, Some(&place.path("run/adapter")), &rows).json()["loss"].as_f64().unwrap();
    assert!(loss < expected("resized") - 0.05, "{loss}");
    place.ok(&format!("merge --model {} --adapter run/adapter --output merged", base.display()));
    let merged = place.eval(&place.path("merged"), None, &rows).json()["loss"].as_f64().unwrap();
    assert!((merged - loss).abs() < 1e-5, "{merged} and {loss}");
}

/// An adapter that PEFT saved is trained on as PEFT itself trains it on.
#[test]
fn training_on_is_pefts() {
    let place = Place::new();
    let (mut jobs, mut ours) = (Vec::new(), Vec::new());
    for case in [
        "plain",
        "dora",
        "bin",
        "norms",
        "norm_and_embedding",
        "longlora",
        "head_target",
        "all_biases",
        "projection_with_bias",
    ] {
        let ((base, rows), adapter) = (base_and_rows(case), cases().join(case));
        let config = format!(
            "output = {case:?}\n[model]\npath = {base:?}\n[adapter]\nfrom = {adapter:?}\n[data]\ntrain = {rows:?}\n[training]\n\
             max_steps = 3\nlearning_rate = 1e-3\nlr_scheduler_type = \"constant\"\nweight_decay = 0.0\nmax_grad_norm = 0.0\n\
             per_device_train_batch_size = 3\n"
        );
        place.write("more.toml", &config);
        place.ok("train more.toml");
        let loss = place.loss(&base, Some(&place.path(case).join("adapter")), &rows);
        assert!(loss < expected(case) - 0.005, "{case}: {loss}");
        ours.push(loss);
        jobs.push(serde_json::json!({"model": base, "adapter": adapter, "rows": rows, "steps": 3, "lr": 1e-3}));
    }
    if let Some(there) = place.losses_there(&jobs) {
        assert!(there.iter().zip(&ours).all(|(a, b)| (a - b).abs() < 2e-5), "{there:?} and {ours:?}");
    }
}

#[test]
fn adapters_are_combined_and_mistakes_are_told_before_anything_is_loaded() {
    let place = Place::new();
    let (base, rows) = base_and_rows("plain");
    let (plain, other) = (cases().join("plain"), cases().join("orthogonal"));
    let line = |parts: &str, more: &str| format!("combine --model {} {parts} --output out {more}", base.display());
    let (plain, other) = (plain.display(), other.display());
    // An adapter at weight 1 is itself, and one at 0 takes no part.
    for (parts, method) in [
        (format!("{plain}=1 {other}=0"), "--method linear"),
        (format!("{plain}=1 {other}=0"), "--method cat"),
        (format!("{plain}=0.25 {plain}=0.75"), "--method svd --svd-rank 4"),
        (format!("{plain}=1"), "--method ties --density 1 --majority-sign-method frequency"),
        (format!("{plain}=1"), "--method dare_linear --density 1 --seed 3"),
        (format!("{plain}=1"), "--method magnitude_prune_svd --density 1"),
    ] {
        let said = place.ok(&line(&parts, &format!("{method} --json"))).json();
        assert_eq!(said["peft_type"], "LORA");
        let loss = place.eval(&base, Some(&place.path("out")), &rows).json()["loss"].as_f64().unwrap();
        assert!((loss - expected("plain")).abs() < 2e-5, "{parts} {method}: {loss}");
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
    let pair = format!("{plain}=0.7 {other}=0.3");
    for method in
        ["ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd", "magnitude_prune"]
    {
        place
            .run(&line(&pair, &format!("--method {method}")))
            .fails_with(&[method, "add --density, for example --density 0.5"]);
        place.ok(&line(&pair, &format!("--method {method} --density 0.5")));
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
    place.run(&line(&pair, "--density 0.5")).fails_with(&["linear does not use --density", "leave --density out"]);
    place.run(&line(&format!("{plain}=1 nowhere=1"), "")).fails_with(&["`nowhere` is not an adapter"]);
    let said = place.run(&line("plain", ""));
    assert!(said.code == 2 && said.err.contains("is not DIR=WEIGHT"), "{}", said.err);
    assert!(!place.path("out").exists());
}

#[test]
fn dora_adapters_are_combined_as_by_peft_and_with_others_as_the_error_says() {
    let place = Place::new();
    let base = cases().join("base");
    let (dora, plain) = (cases().join("dora"), cases().join("plain"));
    let (base, dora, plain) = (base.display(), dora.display(), plain.display());
    let said = place.ok(&format!("combine --model {base} {dora}=0.7 {dora}=0.3 --output both --json"));
    let warning = "what DoRA has learned of norms (lora_magnitude_vector) is left out, as in PEFT";
    assert!(said.err.contains(warning), "{}", said.err);
    assert!(said.json()["warnings"].to_string().contains(warning));
    let mixed = |dora: &str| format!("combine --model {base} {plain}=1 {dora}=1 --method cat --output mixed");
    place.run(&mixed(&dora.to_string())).fails_with(&["DoRA adapters can be combined", "`peft convert --to lora`"]);
    place.ok(&format!("convert --to lora {dora} --model {base} --rank 8 --output lora"));
    place.ok(&mixed("lora"));
}
