//! The `help:` line under an error, followed: then the command goes well.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Place, fixtures, glassllm, helps};

fn case(name: &str) -> PathBuf {
    fixtures().join("adapters").join(name)
}

#[test]
fn runs_that_are_in_the_way_go_on_or_are_replaced() {
    let place = Place::new();
    place.ok("train run.toml");
    helps(&place.run("train run.toml"), "run", &["go on with the run by --resume", "replace it by --overwrite"]);
    place.ok("train run.toml --resume");
    place.ok("train run.toml --overwrite");
    let other = "train run.toml --set training.learning_rate=2e-2";
    helps(
        &place.run(&format!("{other} --resume")),
        "begun with another configuration",
        &["set these back, use another output folder, or replace the run by --overwrite"],
    );
    place.ok("train run.toml --resume");
    place.ok(&format!("{other} --set output=elsewhere"));
    place.ok(&format!("{other} --overwrite"));
}

#[test]
fn a_checkpoint_that_is_damaged_is_removed() {
    let place = Place::new();
    place.ok("train run.toml --set training.max_steps=8");
    let checkpoints = place.path("run/checkpoints");
    let newest = checkpoints.join("step-8");
    for entry in std::fs::read_dir(&newest).unwrap() {
        let path = entry.unwrap().path();
        let records = path.is_file() && !path.ends_with("trainer_state.json");
        if records {
            std::fs::write(path, b"damaged").unwrap();
        }
    }
    let said = place.run("train run.toml --resume");
    helps(&said, "step-8", &["remove this checkpoint's folder: --resume then goes on from the one before it"]);
    std::fs::remove_dir_all(newest).unwrap();
    let said = place.ok("train run.toml --resume");
    assert!(said.err.contains("step 5/12"), "{}", said.err);
}

#[test]
fn configurations_rows_and_paths_are_corrected() {
    let place = Place::new();
    let train = |more: &str| place.run(&format!("train run.toml --set training.max_steps=1 --overwrite {more}"));
    let good = String::from_utf8(place.read("run.toml")).unwrap();
    let model = format!("path = \"{}\"", glassllm().display());
    place.write("run.toml", &good.replace(&model, &format!("path = {}", glassllm().display())));
    helps(&train(""), "run.toml", &["strings stand in quotes: path = \"base\""]);
    place.write("run.toml", &good);
    assert_eq!(train("").code, 0);
    let help = "correct these in the file or in --set; `peft train --help` shows a complete file";
    helps(&train("--set training.lerning_rate=1"), "`training.lerning_rate`", &[help]);
    assert!(place.ok("train --help").out.contains("learning_rate"));
    assert_eq!(train("--set training.learning_rate=1e-3").code, 0);

    place.write("bad.jsonl", &format!("{}{{\"text\": 5}}\n", crate::support::ROWS));
    helps(&train("--set data.train=bad.jsonl"), "line 5", &["correct or remove these rows"]);
    place.write("bad.jsonl", crate::support::ROWS);
    assert_eq!(train("--set data.train=bad.jsonl").code, 0);
    let help = "check the path: it is relative to the folder in which peft runs";
    helps(&train("--set data.train=trian.jsonl"), "trian.jsonl", &[help]);
    assert_eq!(train("--set data.train=train.jsonl").code, 0);
}

#[test]
fn other_rows_go_into_a_run_of_their_own() {
    let place = Place::new();
    place.ok("train run.toml --set training.max_steps=4");
    let rows = crate::support::ROWS;
    place.write("train.jsonl", &rows.replace("tarts", "cakes"));
    let resume = "train run.toml --set training.max_steps=6 --resume";
    let help = "set it back, or begin a new run in another output folder";
    helps(&place.run(resume), "data changed", &[help]);
    place.ok("train run.toml --set training.max_steps=1 --set output=other");
    place.write("train.jsonl", rows);
    place.ok(resume);
}

#[test]
#[cfg(unix)]
fn what_may_not_be_written_goes_elsewhere() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    std::fs::create_dir(place.path("closed")).unwrap();
    let allow = |mode: u32| {
        std::fs::set_permissions(place.path("closed"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(0o500);
    // Nothing is closed to the superuser.
    if std::fs::write(place.path("closed/probe"), "").is_err() {
        let line = "train run.toml --set training.max_steps=1 --set output=closed/run";
        helps(&place.run(line), "closed/run", &["change the permissions, or use another folder"]);
        place.ok("train run.toml --set training.max_steps=1 --set output=open/run");
        allow(0o700);
        place.ok(line);
    }
    allow(0o700);
}

#[test]
fn a_gguf_that_is_broken_gives_way_to_the_directory() {
    let place = Place::new();
    place.write("model.gguf", "GGUF and no more");
    let generate = |model: &str| place.run(&format!("generate --model {model} --prompt Alice --max-new-tokens 2"));
    let help = "give another file, or the model's Hugging Face directory";
    helps(&generate("model.gguf"), "model.gguf", &[help]);
    assert_eq!(generate(&glassllm().display().to_string()).code, 0);
}

#[test]
fn files_of_a_model_that_are_broken_are_fetched_again() {
    let place = Place::new();
    let generate = "generate --model model --prompt Alice --max-new-tokens 2";
    let mend = |file: &str| std::fs::copy(glassllm().join(file), place.path("model").join(file)).unwrap();
    place.copy_model("model");
    let help = "fetch the model again or correct the file; for what is not supported, give another model";
    for (file, text, help) in [
        ("config.json", "{", help),
        ("config.json", "{\"model_type\": \"llama\", \"vocab_size\": \"many\"}", help),
        ("config.json", "{\"model_type\": \"llama\", \"hidden_act\": \"relu\"}", help),
        ("config.json", "{\"model_type\": \"t5\"}", "give a model of one of these families"),
        ("tokenizer.json", "{\"model\": 3}", "fetch the tokenizer's files again"),
    ] {
        place.write(&format!("model/{file}"), text);
        helps(&place.run(generate), file, &[help]);
        mend(file);
        place.ok(generate);
    }
    let mut config: Value = serde_json::from_slice(&place.read("model/config.json")).unwrap();
    let layers = config["num_hidden_layers"].as_u64().unwrap();
    config["num_hidden_layers"] = (layers + 1).into();
    place.write("model/config.json", &config.to_string());
    helps(&place.run(generate), "missing", &["take config.json and the weights from the same model"]);
    mend("config.json");
    std::fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    helps(&place.run(generate), "has no tokenizer.json", &["put the model's tokenizer.json beside its weights"]);
    mend("tokenizer.json");
    place.ok(generate);
}

#[test]
fn adapters_are_corrected_and_arguments_left_out_or_added() {
    let place = Place::new();
    let base = case("base").display().to_string();
    let rows = case("rows.jsonl");
    let eval = |place: &Place| place.eval(Path::new(&base), Some(&place.path("adapter")), &rows);
    place.copy(&case("plain"), "adapter");
    let good = String::from_utf8(place.read("adapter/adapter_config.json")).unwrap();
    place.write("adapter/adapter_config.json", "{");
    helps(&eval(&place), "adapter_config.json", &["write it again with PEFT, or correct the file"]);
    place.write("adapter/adapter_config.json", &good.replace("\"lora_alpha\": 8", "\"lora_alpha\": \"eight\""));
    helps(&eval(&place), "lora_alpha", &["correct these keys; they are those of PEFT's adapter_config.json"]);
    place.write("adapter/adapter_config.json", &good);
    assert_eq!(eval(&place).code, 0);

    let inspect = format!("inspect {base} --model {base}");
    helps(&place.run(&inspect), "--model is for adapters", &["leave --model out"]);
    place.ok(&format!("inspect {base}"));

    let dora = case("dora").display().to_string();
    let line = |more: &str| format!("convert --to lora {dora} --model {base} --output {more}");
    helps(&place.run(&line("a")), "changes the whole weight", &["add --rank, for example --rank 32"]);
    place.ok(&line("a --rank 32"));
    helps(&place.run(&line("a --rank 32")), "exists already", &["choose another --output, or remove it first"]);
    place.ok(&line("b --rank 32"));

    let mut config: Value = serde_json::from_str(&good).unwrap();
    config["base_model_name_or_path"] = Value::Null;
    place.write("adapter/adapter_config.json", &config.to_string());
    helps(
        &place.run("convert --to lora adapter --output c"),
        "does not name the model it was trained on",
        &["give it: --model DIR"],
    );
    place.ok(&format!("convert --to lora adapter --output c --model {base}"));

    let tuned = format!("convert --from-model {base} --model {base} --rank 2 --output d");
    helps(&place.run(&format!("{tuned} --to peft")), "--from-model makes a LoRA", &["leave --to out"]);

    let bench = format!("bench --model {base} --method lora --steps 1 --warmup 0 --batch 1");
    helps(&place.run(&format!("{bench} --seq 8 --prompt 8")), "no target", &["make --seq larger, or --prompt smaller"]);
    place.ok(&format!("{bench} --seq 8 --prompt 4"));
}
