//! The ways out that errors name, taken: then the command goes well.

use std::path::PathBuf;

use crate::support::{Place, fixtures};

fn case(name: &str) -> PathBuf {
    fixtures().join("adapters").join(name)
}

fn base() -> String {
    case("base").display().to_string()
}

/// Writes `name.toml`: two steps of a LoRA with these keys on the small base.
fn config(place: &Place, name: &str, adapter: &str) {
    let rows = case("rows.jsonl");
    let rank = if adapter.contains("r = ") { "" } else { "r = 4\n" };
    let text = format!(
        "output = {name:?}\n[model]\npath = {:?}\n[adapter]\npeft_type = \"LORA\"\n{rank}{adapter}\n[data]\ntrain = {rows:?}\n\
         [training]\nmax_steps = 2\n",
        base()
    );
    place.write(&format!("{name}.toml"), &text);
}

#[test]
fn a_run_that_is_refused_for_its_modules_goes_well_when_they_are_corrected() {
    let place = Place::new();
    for (wrong, parts, right) in [
        (
            "target_modules = [\"query\"]",
            &["`query`", "choose target_modules among the available names"][..],
            "target_modules = \"all-linear\"",
        ),
        (
            "target_modules = [\"q_proj\"]\nmodules_to_save = [\"q_proj\", \"norm\"]",
            &["selects no module", "taken out by exclude_modules or modules_to_save"],
            "target_modules = [\"v_proj\"]\nmodules_to_save = [\"q_proj\", \"norm\"]",
        ),
        ("trainable_token_indices = [64]", &["token 64", "0 to 63"], "trainable_token_indices = [63]"),
        (
            "init_lora_weights = \"eva\"",
            &["\"eva\" is not supported", "\"gaussian\""],
            "init_lora_weights = \"gaussian\"",
        ),
        ("init_lora_weights = \"pissa\"\nr = 33", &["lower r from 33"], "init_lora_weights = \"pissa\"\nr = 16"),
    ] {
        config(&place, "wrong", wrong);
        place.run("train wrong.toml").fails_with(parts);
        assert!(!place.path("wrong").exists());
        config(&place, "right", right);
        place.ok("train right.toml --overwrite");
    }
}

#[test]
fn a_bias_that_a_plain_model_has_no_place_for_is_left_out_of_training() {
    let place = Place::new();
    config(&place, "biased", "lora_bias = true");
    place.ok("train biased.toml");
    let merge = |run: &str| format!("merge --model {} --adapter {run}/adapter --output merged", base());
    place.run(&merge("biased")).fails_with(&["q_proj.bias", "train it with lora_bias = false"]);
    config(&place, "plain", "lora_bias = false");
    place.ok("train plain.toml");
    place.ok(&merge("plain"));
    place.run(&merge("plain")).fails_with(&["exists already and is not empty", "remove this one first"]);
    std::fs::remove_dir_all(place.path("merged")).unwrap();
    place.ok(&merge("plain"));
}

#[test]
fn adapters_that_cannot_be_mixed_are_mixed_as_the_error_says() {
    let place = Place::new();
    config(&place, "four", "");
    config(&place, "two", "rank_pattern = {v_proj = 2}");
    place.ok("train four.toml");
    place.ok("train two.toml");
    let line = |more: &str| format!("combine --model {} four/adapter=0.5 two/adapter=0.5 --output both {more}", base());
    place.run(&line("--method linear")).fails_with(&["the ranks differ", "use cat or one of the svd kinds"]);
    place.ok(&line("--method cat"));
    std::fs::remove_dir_all(place.path("both")).unwrap();
    place.ok(&line("--method svd"));
}

#[test]
fn an_adapter_goes_on_the_base_it_was_trained_for() {
    let place = Place::new();
    place.random_model("other");
    let adapter = case("plain").display().to_string();
    let line = |model: &str| format!("merge --model {model} --adapter {adapter} --output merged");
    place.run(&line("other")).fails_with(&["of another shape", "load it on the base model it was trained for"]);
    place.ok(&line(&base()));
    let run =
        |adapter: &str| format!("eval --model {} --adapter {adapter} --data {}", base(), case("rows.jsonl").display());
    config(&place, "run", "");
    place.ok("train run.toml");
    place.run(&run("run")).fails_with(&["this folder is a run's; its adapter is `run/adapter`"]);
    place.ok(&run("run/adapter"));
    place.run(&run(&base())).fails_with(&["this folder is a model's: give it as --model"]);
    let swapped = |model: &str| format!("eval --model {model} --data {}", case("rows.jsonl").display());
    place.run(&swapped("run/adapter")).fails_with(&["it holds an adapter and no model"]);
    place.write("empty/notes.txt", "");
    place.run(&run("empty")).fails_with(&["adapter_config.json and adapter_model.safetensors (or adapter_model.bin)"]);
}
