//! Further adapters of PEFT (`tests/python/variant_cases.py`): they compute what PEFT computes, and are trained on as by PEFT.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::support::{Place, fixtures};

#[derive(Deserialize)]
struct Cases {
    steps: usize,
    lr: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    base: String,
    rows: String,
    /// `None` where it is refused.
    loss: Option<f64>,
    /// After some steps of training.
    trained: Option<f64>,
}

fn folder(name: &str) -> PathBuf {
    fixtures().join("variants").join(name)
}

fn cases() -> Cases {
    serde_json::from_slice(&std::fs::read(folder("cases.json")).unwrap()).unwrap()
}

#[test]
fn adapters_load_and_merge_to_what_peft_computes() {
    let place = Place::new();
    let mut wrong = Vec::new();
    for Case { name, base, rows, loss, .. } in cases().cases {
        let Some(expected) = loss else { continue };
        let (base, adapter, rows) = (folder(&base), folder(&name), folder(&rows));
        let said = place.eval(&base, Some(&adapter), &rows);
        if said.code != 0 {
            wrong.push(format!("{name}: {}", said.err));
            continue;
        }
        if said.err.contains("warning") != (name == "wrapped") {
            wrong.push(format!("{name} says: {}", said.err));
        }
        let found = said.json()["loss"].as_f64().unwrap();
        // Biases have no place in a plain model, and what is there in f16 is rounded by the base's dtype alone.
        let merged = if name == "lora_bias_everywhere" {
            found
        } else {
            let out = format!("merged/{}", name.replace('/', "-"));
            let line = format!("merge --model {} --adapter {} --output {out}", base.display(), adapter.display());
            let said = place.run(&line);
            if said.code == 0 { place.loss(&place.path(&out), None, &rows) } else { f64::NAN }
        };
        for (what, loss) in [("loaded", found), ("merged", merged)] {
            if loss.is_nan() || (loss - expected).abs() >= 1e-5 {
                wrong.push(format!("{name} {what}: {loss}, and PEFT has {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn adapters_are_trained_on_as_by_peft() {
    let place = Place::new();
    let Cases { steps, lr, cases } = cases();
    let (mut wrong, mut jobs, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for Case { name, base, rows, trained, .. } in cases {
        let Some(expected) = trained else { continue };
        let (base, rows) = (folder(&base), folder(&rows));
        place.write(
            "more.toml",
            &format!(
                "output = {name:?}\n[model]\npath = {base:?}\n[adapter]\nfrom = {:?}\n[data]\ntrain = {rows:?}\n[training]\n\
                 max_steps = {steps}\nlearning_rate = {lr}\nlr_scheduler_type = \"constant\"\nweight_decay = 0.0\n\
                 max_grad_norm = 0.0\nper_device_train_batch_size = 3\n",
                folder(&name)
            ),
        );
        let said = place.run("train more.toml");
        if said.code != 0 {
            wrong.push(format!("{name}: {}", said.err));
            continue;
        }
        let adapter = place.path(&name).join("adapter");
        let loss = place.loss(&base, Some(&adapter), &rows);
        if (loss - expected).abs() >= 5e-5 {
            wrong.push(format!("{name}: {loss}, and PEFT has {expected}"));
        }
        // PEFT reads what was saved, on a base whose vocabulary is as large.
        if rows.ends_with("rows_48.jsonl") {
            jobs.push(json!({"model": base, "adapter": adapter, "rows": rows}));
            losses.push(loss);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if let Some(there) = place.losses_there(&jobs) {
        assert!(there.iter().zip(&losses).all(|(a, b)| (a - b).abs() < 1e-5), "{there:?} and {losses:?}");
    }
}

#[test]
fn what_cannot_be_loaded_is_refused_with_a_way_out() {
    let place = Place::new();
    let case = cases().cases.into_iter().find(|case| case.name == "grown_and_adapted").unwrap();
    assert_eq!(case.loss, None);
    place
        .eval(&folder(&case.base), Some(&folder(&case.name)), &folder(&case.rows))
        .fails_with(&["resized to 56 tokens, and this base has 48", "model.unload().save_pretrained(DIR)"]);
    let said = place.eval(&folder("tied"), Some(&folder("named")), &folder("rows_48.jsonl"));
    said.fails_with(&["there are adapters in it", "named/mine", "named/other"]);
    place.loss(&folder("tied"), Some(&folder("named/mine")), &folder("rows_48.jsonl"));
}

/// The way out that the error names, followed with PEFT.
#[test]
fn an_adapter_on_a_resized_embedding_goes_on_the_base_that_peft_writes() {
    let Some(python) = peft_burn_workspace::python_with(&["peft", "torch", "transformers"]) else { return };
    let place = Place::new();
    place.write(
        "job.json",
        &json!({"base": folder("tied"), "adapter": folder("grown_and_adapted"), "rows": folder("rows_56.jsonl")})
            .to_string(),
    );
    peft_burn_workspace::run_script(&python, "resized_base.py", &place.path("job.json"));
    let expected: f64 = serde_json::from_slice(&place.read("loss.json")).unwrap();
    let loss = place.loss(&place.path("resized"), Some(&folder("grown_and_adapted")), &folder("rows_56.jsonl"));
    assert!((loss - expected).abs() < 1e-5, "{loss}, and PEFT has {expected}");
}

/// PEFT refuses these too, or would leave the rows out; the ways out work.
#[test]
fn trained_rows_of_a_head_are_named_and_alone_on_it() {
    let place = Place::new();
    let rows = folder("rows_48.jsonl");
    let (tied, untied) = (folder("tied"), folder("untied"));
    let eval = |base: &Path| place.eval(base, Some(&place.path("adapter")), &rows);
    let change = |from: &str, keys: serde_json::Value| {
        place.copy(&folder(from), "adapter");
        let mut config: serde_json::Value = serde_json::from_slice(&place.read("adapter/adapter_config.json")).unwrap();
        keys.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        place.write("adapter/adapter_config.json", &config.to_string());
    };
    let both = json!({"embed_tokens": [4, 9], "lm_head": [4, 9, 11]});
    change("tokens_of_the_head", json!({"trainable_token_indices": {"embed_tokens": [4, 9]}}));
    eval(&untied).fails_with(&["rows of a head that trainable_token_indices does not name", "{\"lm_head\": [...]}"]);
    change("tokens_of_the_head", json!({"trainable_token_indices": both}));
    assert_eq!(eval(&untied).code, 0);
    // What is only used computes the same with two copies.
    for tying in [true, false] {
        change("tokens_of_a_tied_head", json!({ "ensure_weight_tying": tying }));
        assert_eq!(eval(&tied).code, 0);
    }
    let train = |targets: &str| {
        place.write(
            "run.toml",
            &format!(
                "output = \"run\"\n[model]\npath = {untied:?}\n[adapter]\npeft_type = \"LORA\"\nr = 2\ntarget_modules = {targets}\n\
                 trainable_token_indices = {{ lm_head = [4] }}\n[data]\ntrain = {rows:?}\n[training]\nmax_steps = 1\n"
            ),
        );
        place.run("train run.toml")
    };
    let both = "lm_head is in target_modules and in trainable_token_indices; use one of them";
    train("[\"lm_head\", \"q_proj\"]").fails_with(&[both]);
    assert_eq!(train("[\"q_proj\"]").code, 0);
}

#[test]
fn head_and_embedding_of_a_new_adapter_are_one_where_the_configuration_says_so() {
    let place = Place::new();
    let (base, rows) = (folder("tied"), folder("rows_48.jsonl"));
    let config = |name: &str, adapter: &str| {
        let text = format!(
            "output = {name:?}\n[model]\npath = {base:?}\n[adapter]\npeft_type = \"LORA\"\nr = 2\nensure_weight_tying = true\n\
             {adapter}\n[data]\ntrain = {rows:?}\n[training]\nmax_steps = 3\nlearning_rate = 1e-2\n"
        );
        place.write("run.toml", &text);
    };
    for (name, adapter) in [
        ("whole", "target_modules = [\"q_proj\"]\nmodules_to_save = [\"lm_head\"]"),
        ("low_rank", "target_modules = [\"embed_tokens\", \"q_proj\"]"),
    ] {
        config(name, adapter);
        let said = place.ok("train run.toml");
        assert_eq!(
            said.err.contains("PEFT 0.21.2 takes a step for each of the two"),
            name == "low_rank",
            "{}",
            said.err
        );
        let adapter = place.path(name).join("adapter");
        let loss = place.loss(&base, Some(&adapter), &rows);
        let merge = format!("merge --model {} --adapter {name}/adapter --output merged_{name}", base.display());
        place.ok(&merge);
        let merged = place.path(&format!("merged_{name}"));
        assert!((place.loss(&merged, None, &rows) - loss).abs() < 1e-5, "{name}");
        let jobs = [json!({"model": base, "adapter": adapter, "rows": rows}), json!({"model": merged, "rows": rows})];
        for there in place.losses_there(&jobs).into_iter().flatten() {
            assert!((there - loss).abs() < 1e-5, "{name}: {there} and {loss}");
        }
    }
    config("dropped", "target_modules = [\"embed_tokens\"]\nlora_dropout = 0.1");
    place.run("train run.toml").fails_with(&["ensure_weight_tying with lora_dropout = 0.1", "set it to 0"]);
    config("dropped", "target_modules = [\"embed_tokens\"]\nlora_dropout = 0");
    place.ok("train run.toml");
}
