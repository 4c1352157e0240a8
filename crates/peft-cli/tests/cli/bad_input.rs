//! Everything that a user can get wrong is a clear error, and nothing is lost by it.

use std::fs::OpenOptions;

use serde_json::json;

use crate::support::{Place, ROWS, glassllm};

#[test]
fn wrong_usage_is_status_two() {
    let place = Place::new();
    for line in ["", "train", "train run.toml --resume --overwrite", "eval --model m", "generate --nonsense", "dance"] {
        let said = place.run(line);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "peft {line}");
        assert!(said.err.contains("Usage: peft"), "peft {line}: {}", said.err);
    }
    let said = place.run("eval --model m --data d --device gpu");
    assert_eq!(said.code, 2);
    assert!(said.err.contains("a device is cpu, cuda[:N]"), "{}", said.err);
}

#[test]
fn a_bench_without_targets_is_refused() {
    let line = "bench --model m --method lora --seq 8 --prompt 8";
    Place::new().run(line).fails_with(&["--prompt 8 leaves no target in rows of 8 tokens", "--seq larger"]);
}

#[test]
fn a_device_that_is_not_compiled_in_names_its_feature() {
    let place = Place::new();
    for line in ["train run.toml --device rocm:1", "eval --model m --data d --device rocm:1"] {
        place.run(line).fails_with(&["no device `rocm:1`", "Cargo feature `rocm`"]);
    }
    assert!(!place.path("run").exists());
}

#[test]
fn devices_without_a_collective_do_not_train_together() {
    let place = Place::new();
    place.run("train run.toml --device cpu,cpu").fails_with(&["2 devices together", "CUDA"]);
    place.run("train run.toml --device cpu,rocm:1").fails_with(&["no device `rocm:1`", "Cargo feature `rocm`"]);
    assert!(!place.path("run").exists());
}

#[test]
fn a_model_that_is_missing_or_cut_short_is_named() {
    let place = Place::new();
    place.run("train run.toml --set model.path=./nowhere").fails_with(&["./nowhere", "no such directory"]);
    place.copy_model("model");
    let weights = place.path("model/model.safetensors");
    let length = std::fs::metadata(&weights).unwrap().len();
    for (keep, says) in [(length / 2, "fetch it again"), (4, "fetch it again"), (0, "fetch it again")] {
        OpenOptions::new().write(true).open(&weights).unwrap().set_len(keep).unwrap();
        for line in ["train run.toml --set model.path=model", "inspect model"] {
            place.run(line).fails_with(&["model.safetensors", says]);
        }
    }
    std::fs::remove_file(&weights).unwrap();
    place.run("train run.toml --set model.path=model").fails_with(&["model.safetensors", "missing"]);
    assert!(!place.path("run").exists(), "nothing was begun");
}

#[test]
fn another_architecture_is_named_with_what_is_supported() {
    let place = Place::new();
    place.copy_model("model");
    place.write("model/config.json", r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}"#);
    for line in ["train run.toml --set model.path=model", "inspect model"] {
        place.run(line).fails_with(&["GPT2LMHeadModel", "supported: ", "Llama"]);
    }
}

#[test]
fn rows_whose_tokens_the_model_lacks_are_named_with_the_token() {
    let place = Place::new();
    place.random_model("model");
    std::fs::copy(glassllm().join("tokenizer.json"), place.path("model/tokenizer.json")).unwrap();
    let said = place.run("train run.toml --set model.path=model");
    said.fails_with(&["line 1: token id ", "(\"", "outside the model's vocabulary of 40", "line 4: token id"]);
    let shown = place.ok("inspect model --json").json();
    assert_eq!(shown["problems"], json!([]));
    assert!(shown["warnings"][0].as_str().unwrap().contains("are beyond the model's 40 embeddings"), "{shown}");
    place.run("generate --model model --prompt Alice").fails_with(&["outside the model's vocabulary of 40"]);
}

#[test]
fn every_bad_line_of_a_data_file_is_listed() {
    let place = Place::new();
    place.write(
        "bad.jsonl",
        &format!("{ROWS}{{\"prompt\": \"a\",\n[1]\n{{\"text\": \"b\"}}\n{{\"prompt\": 3, \"completion\": \"c\"}}\n"),
    );
    let said = place.run("train run.toml --set data.train=bad.jsonl");
    said.fails_with(&["bad.jsonl", "line 5: not JSON", "line 6: not a JSON object", "line 7: has text", "line 8"]);
    place.run(&format!("eval --model {} --data bad.jsonl", glassllm().display())).fails_with(&["line 5"]);
}

#[test]
fn data_without_rows_or_targets_is_refused() {
    let place = Place::new();
    for text in ["", "\n\n"] {
        place.write("empty.jsonl", text);
        place.run("train run.toml --set data.train=empty.jsonl").fails_with(&["empty.jsonl", "no rows"]);
        place.run("train run.toml --set data.valid=empty.jsonl").fails_with(&["empty.jsonl", "no rows"]);
    }
    place.write("masked.jsonl", "{\"input_ids\": [5, 6], \"labels\": [-100, -100]}\n");
    place.run("train run.toml --set data.train=masked.jsonl").fails_with(&["masked.jsonl", "target", "line 1"]);
    place.run("train run.toml --set data.train=nowhere.jsonl").fails_with(&["nowhere.jsonl", "No such file"]);
    assert!(!place.path("run").exists());
}

#[test]
fn rows_that_are_cut_are_counted() {
    let place = Place::new();
    let said = place.ok("train run.toml --set data.max_length=8 --json");
    assert!(said.err.contains("4 rows were longer than max_length and cut"), "{}", said.err);
    assert_eq!(said.json()["truncated_rows"], json!(4));
    let said = place.ok(&format!("eval --model {} --data train.jsonl --max-length 8", glassllm().display()));
    assert!(said.err.contains("4 rows were longer than max_length and cut"), "{}", said.err);
}

#[test]
fn unknown_keys_come_with_the_nearest_known_one() {
    let place = Place::new();
    let said = place.run("train run.toml --set training.lerning_rate=1 --set sed=2");
    said.fails_with(&["`training.lerning_rate`", "`learning_rate`", "`sed`", "`seed`"]);
    place.run("train run.toml --set adapter.lora_alfa=2").fails_with(&["`lora_alfa`", "`lora_alpha`"]);
    place.run("train run.toml --set adapter.target_modules=['q_prj']").fails_with(&["q_prj", "q_proj"]);
    place.write("run.toml", "output = run\n");
    place.run("train run.toml").fails_with(&["run.toml", "line 1", "help:"]);
    place.run("train nowhere.toml").fails_with(&["nowhere.toml", "No such file"]);
}

#[test]
fn a_chat_template_may_be_missing_but_not_malformed() {
    let place = Place::new();
    place.copy_model("model");
    let line = "train run.toml --set model.path=model --set training.max_steps=1";
    place.write("chat.jsonl", "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}\n");
    place.run(&format!("{line} --set data.train=chat.jsonl")).fails_with(&["the model has no chat template"]);
    place.write("model/chat_template.jinja", "{% for %}");
    place.run(line).fails_with(&["chat template: syntax error"]);
    let shown = place.ok("inspect model --json").json();
    assert!(shown["problems"][0].as_str().unwrap().contains("chat template: syntax error"), "{shown}");
    std::fs::remove_file(place.path("model/chat_template.jinja")).unwrap();
    place.ok(line);
}

#[test]
fn a_template_at_fault_is_said_and_not_the_rows() {
    let place = Place::new();
    place.copy_model("model");
    let line = "train run.toml --set model.path=model --set training.max_steps=1 --set data.train=chat.jsonl";
    let (user, assistant) =
        (r#"{"role": "user", "content": "Who?"}"#, r#"{"role": "assistant", "content": "The Queen"}"#);
    place.write("chat.jsonl", &format!("{{\"messages\": [{user}, {assistant}]}}\n"));
    let help = "put a template that works into chat_template.jinja beside the model's tokenizer";
    place.write("model/chat_template.jinja", "{{ messages | xmlattr }}");
    place.run(line).fails_with(&["line 1", "filter xmlattr is unknown", help]);

    place.write("model/chat_template.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    place.run(line).fails_with(&[
        r#"writes "assistant: " before what the assistant says"#,
        "add_generation_prompt",
        help,
    ]);
    place.ok(&format!("{line} --set data.assistant_only_loss=false"));
    place.write("chat.jsonl", &format!("{{\"prompt\": [{user}], \"completion\": [{assistant}]}}\n"));
    let said = place.ok(&format!("{line} --overwrite"));
    assert!(said.err.contains("it is learned as part of the completion, as in TRL"), "{}", said.err);
}

#[test]
fn a_tokenizer_of_a_class_that_is_not_supported_is_refused_by_name() {
    let place = Place::new();
    place.copy_model("model");
    place.write("model/tokenizer_config.json", r#"{"tokenizer_class": "BertTokenizerFast"}"#);
    let line = "train run.toml --set model.path=model --set training.max_steps=1";
    place.run(line).fails_with(&["tokenizer_config.json", "BertTokenizer", "PreTrainedTokenizerFast"]);
}

#[test]
fn a_warm_up_longer_than_the_run_is_refused_whatever_sets_its_length() {
    let place = Place::new();
    let line = "train run.toml --set training.warmup_steps=13";
    place.run(line).fails_with(&["`training.warmup_steps` is 13", "at most `training.max_steps`, 12"]);
    let config = String::from_utf8(place.read("run.toml")).unwrap();
    place.write("run.toml", &config.replace("max_steps = 12", "num_train_epochs = 3"));
    place.run(line).fails_with(&["`training.warmup_steps` is 13, but the run has 6 steps"]);
    assert!(!place.path("run").exists());
}

#[test]
fn absurd_sizes_are_refused_by_their_keys_before_anything_is_written() {
    let place = Place::new();
    let huge = i64::MAX;
    for (set, named) in [
        (format!("training.per_device_train_batch_size={huge}"), "`training.per_device_train_batch_size` times"),
        (
            format!("training.gradient_accumulation_steps={huge}"),
            "times `gradient_accumulation_steps` is 18446744073709551614; it must be at most 1048576",
        ),
        (
            "training.sample_prompts=[\"a\"] --set training.sample_max_new_tokens=0".to_owned(),
            "`training.sample_max_new_tokens` is 0",
        ),
        ("data.train={path=\"train.jsonl\",weight=1e18}".to_owned(), "lower it"),
        ("data.train={path=\"train.jsonl\",weight=1e-18}".to_owned(), "raise it, or leave the file out"),
    ] {
        place.run(&format!("train run.toml --set {set}")).fails_with(&[named]);
        assert!(!place.path("run").exists());
    }
    let both = format!(
        "--set training.per_device_train_batch_size={0} --set training.gradient_accumulation_steps={0}",
        1_u64 << 32
    );
    place.run(&format!("train run.toml {both} --set training.group_by_length=true")).fails_with(&["at most 1048576"]);
}

#[test]
fn options_that_contradict_the_adapter_are_refused_before_rows_are_read() {
    let place = Place::new();
    let line = "train run.toml --set data.cache=cache";
    for (more, named) in [
        ("--set training.gradient_checkpointing=true", "does not go with dropout"),
        ("--set training.shrink_after_pruning=true", "only peft_type = \"ADALORA\" prunes"),
    ] {
        place.run(&format!("{line} {more}")).fails_with(&[named]);
        assert!(!place.path("cache").exists());
    }
}

#[test]
fn gradient_checkpointing_trains_the_same_adapter_and_refuses_dropout() {
    let place = Place::new();
    let line = "train run.toml --set training.gradient_checkpointing=true";
    place.run(line).fails_with(&["`training.gradient_checkpointing`", "does not go with dropout", "0.1"]);
    assert!(!place.path("run").exists());
    place.ok(&format!("{line} --set adapter.lora_dropout=0 --set output=less"));
    place.ok("train run.toml --set adapter.lora_dropout=0 --set output=more");
    assert_eq!(place.metrics("less"), place.metrics("more"));
    let adapter = |run: &str| place.read(&format!("{run}/adapter/adapter_model.safetensors"));
    assert!(adapter("less") == adapter("more"));
}

#[test]
fn a_finished_run_is_refused_resumed_or_replaced() {
    let place = Place::new();
    place.ok("train run.toml");
    let (adapter, metrics) = (place.read("run/adapter/adapter_model.safetensors"), place.read("run/metrics.jsonl"));
    place.run("train run.toml").fails_with(&["`run` already holds a run", "--resume", "--overwrite"]);
    let said = place.run("train run.toml --resume --set training.learning_rate=0.5 --set seed=3");
    said.fails_with(&["training.learning_rate was 0.01 and is 0.5", "seed was 42 and is 3", "--overwrite"]);
    // A mistake beside --overwrite costs nothing.
    place.run("train run.toml --overwrite --set data.train=nowhere.jsonl").fails_with(&["nowhere.jsonl"]);
    place.run("train run.toml --overwrite --set adapter.target_modules=['nope']").fails_with(&["nope"]);
    let said = place.ok("train run.toml --resume");
    assert!(said.out.contains("all 12 steps were done before"), "{}", said.out);
    assert!(
        place.read("run/adapter/adapter_model.safetensors") == adapter && place.read("run/metrics.jsonl") == metrics
    );

    place.write("run/notes.txt", "mine");
    let said = place.ok("train run.toml --overwrite --set training.max_steps=5 --json").json();
    assert_eq!((&said["steps"], &said["resumed_from"]), (&json!(5), &json!(0)));
    assert_eq!(place.metrics("run").len(), 5);
    assert_eq!(place.read("run/notes.txt"), b"mine", "other files in the folder stay");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let place = Place::new();
    let huge = "--set training.learning_rate=1.0 --set adapter.lora_alpha=1e19 --set training.save_steps=1";
    let said = place.run(&format!("train run.toml {huge}"));
    let good = place.metrics("run").len();
    assert!(good > 0);
    let kept = format!("run/checkpoints/step-{good}");
    said.fails_with(&[&format!("step {}: the loss is NaN", good + 1), "Lower learning_rate"]);
    said.fails_with(&[&format!("the last good checkpoint is `{kept}`")]);
    assert!(!place.path("run/adapter").exists(), "a broken adapter is not left as the result");
    let kept = place.ok(&format!("inspect {kept}/adapter --json")).json();
    assert_eq!(kept["non_finite"], json!([]));
}

#[test]
fn an_adapter_that_does_not_fit_is_told_tensor_by_tensor() {
    let place = Place::new();
    place.random_model("model");
    place.ok("train run.toml");
    let said =
        place.peft(&["generate", "--model", &glassllm().display().to_string(), "--adapter", "run", "--prompt", "x"]);
    said.fails_with(&["`run` is not an adapter", "its adapter is `run/adapter`"]);
    place.write("ids.jsonl", "{\"input_ids\":[1,2,3]}\n");
    let said = place.run("eval --model model --adapter run/adapter --data ids.jsonl");
    said.fails_with(&[
        "of another shape",
        "model.layers.0.self_attn.q_proj.lora_A.weight is [4, 128], expected [4, 16]",
    ]);
    said.fails_with(&["unexpected", "model.layers.3.self_attn.v_proj.lora_B.weight"]);
    let shown = place.ok("inspect run/adapter --model model --json").json();
    assert_eq!(shown["fits_model"], json!(false));

    place.run("merge --model model --adapter run/adapter --output merged").fails_with(&["of another shape"]);
    place
        .run("merge --model model --adapter run/adapter --output run")
        .fails_with(&["run exists already and is not empty"]);
    assert!(!place.path("merged").exists() && place.path("run/adapter").exists());
}

#[test]
fn an_adapter_with_nan_is_seen_and_not_merged() {
    use std::collections::BTreeMap;

    use peft_burn::tensor_file::{TensorFile, write_tensors};
    let place = Place::new();
    place.ok("train run.toml");
    let path = place.path("run/adapter/adapter_model.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let mut tensors: BTreeMap<_, _> = file.names().map(|n| (n.to_owned(), file.read(n).unwrap())).collect();
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
    let shape = tensors[name].shape().to_vec();
    tensors.insert(name.into(), burn::tensor::TensorData::new(vec![f32::NAN; shape.iter().product()], shape));
    drop(file);
    write_tensors(&path, &tensors, &[]).unwrap();
    let shown = place.ok("inspect run/adapter --json").json();
    assert_eq!(shown["non_finite"], json!([name]));
    assert!(place.ok("inspect run/adapter").out.contains(&format!("{name} holds NaN")));
    let line = format!("merge --model {} --adapter run/adapter --output merged", glassllm().display());
    place.run(&line).fails_with(&["NaN or infinite", name]);
}

#[test]
fn what_generate_cannot_do_is_refused() {
    let place = Place::new();
    let model = glassllm().display().to_string();
    let with = |args: &[&str]| place.peft(&[&["generate", "--model", &model, "--prompt", "Alice"], args].concat());
    with(&["--temperature", "-1", "--top-p", "1.5"]);
    with(&["--temperature=-1", "--top-p=1.5"]).fails_with(&["temperature must be 0", "top_p must be above 0"]);
    with(&["--adapter", "nowhere"]).fails_with(&["`nowhere` is not an adapter", "adapter_model.safetensors"]);
    let said = with(&["--max-new-tokens", "200"]);
    assert_eq!(said.code, 0);
    assert!(said.err.contains("more than the 128 the model is made for"), "{}", said.err);
    let said = place.run(&format!("eval --model {model} --data text.jsonl --exact-match"));
    said.fails_with(&["text.jsonl"]);
    place.write("text.jsonl", "{\"text\": \"Alice was\"}\n");
    let said = place.run(&format!("eval --model {model} --data text.jsonl --exact-match"));
    said.fails_with(&["there is no prompt to answer", "prompt + completion"]);
}

#[cfg(target_os = "linux")]
mod full_disk {
    use std::fs::File;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::support::Said;

    /// A small file system of its own, gone when dropped.
    struct Disk(PathBuf);

    impl Disk {
        fn mount(place: &Place, kilobytes: usize) -> Option<Self> {
            let path = place.path("disk");
            std::fs::create_dir(&path).unwrap();
            let disk = Self(path);
            disk.mount_with(&format!("size={kilobytes}k")).then_some(disk)
        }

        fn mount_with(&self, options: &str) -> bool {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&self.0).stderr(Stdio::null());
            mount.status().is_ok_and(|status| status.success())
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
        }
    }

    #[test]
    fn output_to_a_full_device_is_an_error() {
        let place = Place::new();
        let model = glassllm().display().to_string();
        for args in [&["--json"][..], &[]] {
            let mut command =
                place.command(&["generate", "--model", &model, "--prompt", "Alice", "--max-new-tokens", "2"]);
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let said: Said = command.args(args).stdout(full).output().unwrap().into();
            said.fails_with(&["cannot write the output", "No space left"]);
        }
    }

    #[test]
    fn a_full_disk_ends_a_run_that_goes_on_when_there_is_room() {
        let place = Place::new();
        let Some(disk) = Disk::mount(&place, 500) else {
            eprintln!("skipped: mounting a small tmpfs needs root");
            return;
        };
        place.ok("train run.toml --set output=roomy");
        // A checkpoint takes about 240 kB: the second does not fit beside the first.
        let line = "train run.toml --set output=disk/run";
        let said = place.run(line);
        said.fails_with(&["disk/run/", "No space left on device", "the disk of `disk/run` is full"]);
        said.fails_with(&["step-4` is the last whole checkpoint", "make room on that disk", "--resume"]);
        let left: Vec<_> =
            std::fs::read_dir(disk.0.join("run/checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.to_str().unwrap().starts_with("step-")), "{left:?}");
        assert!(!left.is_empty(), "the first checkpoint is kept");

        let merge = format!("merge --model {} --adapter roomy/adapter --output disk/merged", glassllm().display());
        place.run(&merge).fails_with(&[
            "disk/",
            "No space left on device",
            "make room on the disk, or write elsewhere",
        ]);
        let names: Vec<_> = std::fs::read_dir(&disk.0).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["run"], "a merge that failed leaves nothing");

        assert!(disk.mount_with("remount,size=20m"));
        place.ok(&format!("{line} --resume"));
        place.ok(&merge);
        assert_eq!(place.metrics("disk/run"), place.metrics("roomy"));
        assert!(
            place.read("disk/run/adapter/adapter_model.safetensors")
                == place.read("roomy/adapter/adapter_model.safetensors")
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let place = Place::new();
        File::create(place.path("file")).unwrap();
        place.run("train run.toml --set output=file/run").fails_with(&["file/run"]);
    }
}
