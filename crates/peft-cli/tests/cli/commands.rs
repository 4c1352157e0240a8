//! The happy path of every command.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Place, glassllm};

fn goldens(file: impl AsRef<Path>) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn near(value: &Value, expected: f64, within: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - expected).abs() < within, "{value}, expected {expected}");
}

/// `generate` makes the ids and the text that Transformers made.
fn generates(model: &Path, goldens: &[Value]) {
    let place = Place::new();
    let model = model.display().to_string();
    for golden in goldens {
        let prompt = golden["text"].as_str().unwrap();
        let args = ["generate", "--model", &model, "--prompt", prompt, "--max-new-tokens", "24"];
        let text = place.peft(&args);
        assert_eq!(text.code, 0, "{}", text.err);
        assert_eq!(format!("{prompt}{}", text.out), format!("{}\n", golden["greedy_24_text"].as_str().unwrap()));
        let json = place.peft(&[&args[..], &["--json"]].concat()).json();
        let start = golden["ids"].as_array().unwrap().len();
        assert_eq!(json["tokens"].as_array().unwrap(), &golden["greedy_24_ids"].as_array().unwrap()[start..]);
        assert_eq!(json["text"].as_str().unwrap(), text.out.trim_end_matches('\n'));
        assert_eq!((&json["prompt_tokens"], &json["finish_reason"]), (&json!(start), &json!("length")));
    }
}

#[test]
fn generate_writes_what_the_reference_writes() {
    generates(&glassllm(), &goldens(glassllm().join("golden.json")));
}

/// The same for a real model, which is too large to be here.
#[test]
fn smollm2_writes_what_the_reference_writes() {
    let Some(model) = std::env::var_os("SMOLLM2_135M_INSTRUCT") else {
        eprintln!("skipped: set SMOLLM2_135M_INSTRUCT to the folder of HuggingFaceTB/SmolLM2-135M-Instruct in f32");
        return;
    };
    let golden = "../../tests/fixtures/smollm2-135m-instruct.golden.json";
    generates(Path::new(&model), &goldens(Path::new(env!("CARGO_MANIFEST_DIR")).join(golden)));
}

#[test]
fn sampling_follows_its_seed() {
    let place = Place::new();
    let line = |seed: u32| {
        let model = glassllm().display().to_string();
        let options = "--temperature 1.0 --top-k 50 --top-p 0.9 --repetition-penalty 1.1 --max-new-tokens 16";
        place.ok(&format!("generate --model {model} --prompt Alice {options} --seed {seed}")).out
    };
    assert_eq!(line(1), line(1));
    assert_ne!(line(1), line(2));
}

#[test]
fn eval_measures_what_the_reference_measures() {
    let place = Place::new();
    let model = glassllm().display().to_string();
    let mut rows = String::new();
    let (mut sum, mut targets) = (0.0, 0.0);
    for golden in goldens(glassllm().join("golden.json")) {
        let n = golden["ids"].as_array().unwrap().len() as f64 - 1.0;
        sum += golden["mean_nll"].as_f64().unwrap() * n;
        targets += n;
        rows += &format!("{}\n", json!({ "input_ids": golden["ids"] }));
    }
    place.write("ids.jsonl", &rows);
    for batch_size in [1, 2] {
        let said = place.ok(&format!("eval --model {model} --data ids.jsonl --batch-size {batch_size} --json")).json();
        let keys: Vec<_> = said.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["loss", "perplexity", "tokens", "examples", "seconds"]);
        near(&said["loss"], sum / targets, 1e-4);
        near(&said["perplexity"], (sum / targets).exp(), 1e-2);
        assert_eq!((&said["tokens"], &said["examples"]), (&json!(targets as u64), &json!(2)));
    }
    let text = place.ok(&format!("eval --model {model} --data ids.jsonl")).out;
    assert!(text.contains("nats per target token") && text.contains("perplexity"), "{text}");
}

#[test]
fn a_run_learns_and_its_adapter_goes_through_every_command() {
    let place = Place::new();
    let model = glassllm().display().to_string();
    let said = place.ok("train run.toml --set data.valid=train.jsonl --set training.max_steps=40");
    assert!(said.err.contains("train.jsonl: 4 rows") && said.err.contains("trainable params: 14,336"), "{}", said.err);
    assert!(said.err.contains("step 40 · validation loss"), "{}", said.err);
    assert!(said.out.contains("run/adapter") && said.out.contains("run/loss.svg"), "{}", said.out);
    for file in ["adapter/adapter_model.safetensors", "config.toml", "metrics.jsonl", "loss.svg"] {
        assert!(place.path("run").join(file).exists(), "{file}");
    }

    // The line to type next works as it stands.
    let next = said.out.lines().find(|line| line.contains("peft generate --model")).unwrap();
    assert!(next.ends_with("--adapter run/adapter --prompt 'Alice was'"), "{next}");
    let text = place.peft(&["generate", "--model", &model, "--adapter", "run/adapter", "--prompt", "Alice was"]);
    assert_eq!(text.out, " beginning to get very tired\n");

    let eval = |rest: &str| place.ok(&format!("eval --data train.jsonl --exact-match --json {rest}")).json();
    let before = eval(&format!("--model {model}"));
    let after = eval(&format!("--model {model} --adapter run/adapter"));
    assert_eq!((&before["exact_match"], &after["exact_match"]), (&json!(0.0), &json!(1.0)));
    assert!(after["loss"].as_f64().unwrap() < 0.1 * before["loss"].as_f64().unwrap(), "{before} {after}");

    let merged = place.ok(&format!("merge --model {model} --adapter run/adapter --output merged --json")).json();
    assert_eq!((&merged["merged_modules"], &merged["untied_head"]), (&json!(16), &json!(false)));
    near(&eval("--model merged")["loss"], after["loss"].as_f64().unwrap(), 1e-4);
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(place.read(&format!("merged/{file}")), std::fs::read(glassllm().join(file)).unwrap(), "{file}");
    }

    let adapter = place.ok(&format!("inspect run/adapter --model {model} --json")).json();
    assert_eq!((&adapter["method"], &adapter["parameters"]), (&json!("LoRA"), &json!(14336)));
    assert_eq!((&adapter["fits_model"], &adapter["problems"]), (&json!(true), &json!([])));
    assert_eq!(adapter["modules"][0]["rank"], json!(4));
    let shown = place.ok("inspect run/adapter").out;
    assert!(shown.contains("model.layers.3.self_attn.v_proj  rank 4 "), "{shown}");
}

#[test]
fn train_prints_one_object_and_nothing_else() {
    let place = Place::new();
    let said = place.ok("train run.toml --json").json();
    assert_eq!((&said["steps"], &said["resumed_from"], &said["rows"]), (&json!(12), &json!(0), &json!(4)));
    assert!(said["loss"].as_f64().unwrap() < said["first_loss"].as_f64().unwrap(), "{said}");
}

#[test]
fn an_adapter_can_be_trained_on() {
    let place = Place::new();
    place.ok("train run.toml");
    let config = String::from_utf8(place.read("run.toml")).unwrap();
    let from = config.find("[adapter]").unwrap()..config.find("[data]").unwrap();
    place.write("more.toml", &config.replace(&config[from], "[adapter]\nfrom = \"run/adapter\"\n"));
    let first = |run: &str| place.metrics(run)[0]["loss"].as_f64().unwrap();
    place.ok("train more.toml --set output=more");
    assert!(first("more") < 0.7 * first("run"), "{} after {}", first("more"), first("run"));
}

/// `run.toml` with AdaLoRA.
fn adalora(place: &Place, phases: &str) {
    let config = String::from_utf8(place.read("run.toml")).unwrap();
    let lora = config.find("[adapter]").unwrap()..config.find("[data]").unwrap();
    let adapter = format!(
        "[adapter]\npeft_type = \"ADALORA\"\ninit_r = 6\ntarget_r = 2\n{phases}\n\
         target_modules = [\"q_proj\", \"v_proj\"]\n"
    );
    place.write("adalora.toml", &config.replace(&config[lora], &adapter));
}

#[test]
fn adalora_is_pruned_in_training_and_its_adapter_is_smaller() {
    let place = Place::new();
    adalora(&place, "tinit = 2\ntfinal = 4\ndeltaT = 2");
    let said = place.ok("train adalora.toml --json").json();
    assert_eq!(said["ranks"], json!("run/ranks.svg"));
    assert!(place.path("run/ranks.svg").exists());
    let lines = place.metrics("run");
    let last = lines.iter().rfind(|line| line["split"] == "train").unwrap();
    // Four layers of two projections.
    assert_eq!((&last["budget"], &last["live_triplets"]), (&json!(16), &json!(16)));
    near(&last["loss"], last["task_loss"].as_f64().unwrap() + last["orthogonal_loss"].as_f64().unwrap(), 1e-6);
    let adapter = place.ok("inspect run/adapter --json").json();
    let ranks = adapter["modules"].as_array().unwrap().iter().map(|module| module["rank"].as_u64().unwrap());
    assert_eq!(ranks.sum::<u64>(), 16);

    // Cut after pruning; and trained on over another number of steps.
    place.ok("train adalora.toml --set output=cut --set training.shrink_after_pruning=true");
    let config = String::from_utf8(place.read("run.toml")).unwrap();
    let lora = config.find("[adapter]").unwrap()..config.find("[data]").unwrap();
    place.write("more.toml", &config.replace(&config[lora], "[adapter]\nfrom = \"run/adapter\"\n"));
    place.ok("train more.toml --set output=more --set training.max_steps=8");
    assert_eq!(place.metrics("more")[0]["live_triplets"], json!(16));
}

/// The commands of the article that this follows.
#[test]
fn adalora_phases_that_do_not_fit_the_run_are_laid_out() {
    let place = Place::new();
    adalora(&place, "tinit = 200\ntfinal = 1000\ndeltaT = 10");
    place.run("train adalora.toml").fails_with(&[
        "this run of 12 steps",
        "full rank    steps 1 to 200",
        "pruning      from step 201",
        "final ranks  the 1000 steps",
        "training.max_steps",
    ]);
    assert!(!place.path("run").exists(), "nothing was written");
}

#[test]
fn ids_need_no_tokenizer() {
    let place = Place::new();
    place.random_model("model");
    place.write("ids.jsonl", "{\"input_ids\":[1,2,3,4,5,6]}\n{\"input_ids\":[7,8,9],\"labels\":[-100,8,9]}\n");
    let said = place.ok("train run.toml --set model.path=model --set data.train=ids.jsonl");
    assert!(said.out.contains("peft eval --model model --adapter run/adapter --data ids.jsonl"), "{}", said.out);
    let eval = place.ok("eval --model model --adapter run/adapter --data ids.jsonl --json").json();
    assert_eq!(eval["tokens"], json!(7));
    // The merged weights are in the base's dtype.
    place.ok("merge --model model --adapter run/adapter --output merged");
    let shown = place.ok("inspect merged --json").json();
    assert_eq!((&shown["kind"], &shown["tokenizer"]), (&json!("model"), &Value::Null));
    assert_eq!(shown["dtypes"].as_object().unwrap().keys().collect::<Vec<_>>(), ["BF16"]);
    let error = place.peft(&["generate", "--model", "model", "--prompt", "x"]);
    error.fails_with(&["has no tokenizer.json", "help:"]);
    place.write("text.jsonl", "{\"text\": \"x\"}\n");
    place.run("eval --model model --data text.jsonl").fails_with(&["text.jsonl", "the model has no tokenizer"]);
}

#[test]
fn a_chat_goes_through_the_models_template() {
    let place = Place::new();
    place.copy_model("model");
    let ask = ["generate", "--model", "model", "--chat", "--prompt", "Alice", "--max-new-tokens", "4", "--json"];
    place.peft(&ask).fails_with(&["no chat template", "give plain prompts"]);
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    place.write("model/chat_template.jinja", template);
    let chat = place.peft(&ask).json();
    let plain = ["generate", "--model", "model", "--prompt", "user: Alice\nassistant: ", "--max-new-tokens", "4"];
    let plain = place.peft(&[&plain[..], &["--json"]].concat()).json();
    assert_eq!((&chat["tokens"], &chat["prompt_tokens"]), (&plain["tokens"], &plain["prompt_tokens"]));

    place.write(
        "chat.jsonl",
        r#"{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"The Queen"}]}"#,
    );
    let said = place.ok("train run.toml --set model.path=model --set data.train=chat.jsonl");
    assert!(said.out.contains("--prompt 'Who?' --chat"), "{}", said.out);
}

#[test]
fn what_a_model_holds_is_shown() {
    let place = Place::new();
    let said = place.ok(&format!("inspect {}", glassllm().display())).out;
    for part in ["852,608", "4 of width 128", "4 heads of 32, 2 for keys", "38 tensors of F32", "1,024 tokens, no chat"]
    {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::Stdio;
    let place = Place::new();
    let model = glassllm().display().to_string();
    let mut command = place.command(&["generate", "--model", &model, "--prompt", "Alice", "--max-new-tokens", "100"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn devices_tells_what_is_here_and_what_would_bring_the_rest() {
    let place = Place::new();
    let text = place.ok("devices").out;
    let cpu = text.lines().find(|line| line.starts_with("cpu ")).unwrap();
    assert!(cpu.contains("threads") && cpu.contains("f32"), "{text}");
    let all = place.ok("devices --json").json();
    let all = all["devices"].as_array().unwrap();
    let kinds: Vec<_> = all.iter().map(|d| d["device"].as_str().unwrap().split(':').next().unwrap()).collect();
    for kind in ["cpu", "cuda", "rocm", "metal", "vulkan", "webgpu"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    for device in all {
        let name = device["device"].as_str().unwrap();
        if device["compiled"] == json!(false) {
            let feature = name.split(':').next().unwrap();
            assert!(text.contains(&format!("not compiled in: build with --features {feature}")), "{text}");
        }
        // A device can be used exactly where it is listed as present.
        assert_eq!(device["present"] == json!(true), !device["dtypes"].as_array().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn bench_prints_the_keys_of_the_reference() {
    let place = Place::new();
    place.random_model("model");
    std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
    let line = "bench --model model --random --batch 2 --seq 8 --steps 3 --warmup 1 --method";
    let said = place.ok(&format!("{line} lora --json")).json();
    let keys = [
        "impl",
        "method",
        "device",
        "dtype",
        "batch",
        "seq",
        "trainable",
        "step_ms",
        "steps_ms",
        "tokens_per_s",
        "peak_rss_mb",
        "peak_gpu_mb",
        "load_s",
        "first_loss",
        "last_loss",
        "threads",
    ];
    assert_eq!(said.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    assert_eq!((&said["impl"], &said["device"]), (&json!("peft-burn"), &json!("cpu")));
    assert_eq!((&said["method"], said["steps_ms"].as_array().unwrap().len()), (&json!("lora"), 3));
    assert!(said["last_loss"].as_f64().unwrap() < said["first_loss"].as_f64().unwrap(), "it trains: {said}");
    for method in ["lora_all", "dora", "dora_all", "vera", "ia3", "full"] {
        let other = place.ok(&format!("{line} {method} --json")).json();
        near(&other["first_loss"], said["first_loss"].as_f64().unwrap(), 1e-4);
        assert!(other["last_loss"].as_f64().unwrap() < other["first_loss"].as_f64().unwrap(), "it trains: {other}");
    }
    // The term that keeps its vectors apart is a part of its loss.
    let adalora = place.ok(&format!("{line} adalora --json")).json();
    assert!(adalora["first_loss"].as_f64().unwrap() > said["first_loss"].as_f64().unwrap() + 1.0, "{adalora}");
    assert!(adalora["last_loss"].as_f64().unwrap() < adalora["first_loss"].as_f64().unwrap(), "{adalora}");
    assert!(place.ok(&format!("{line} base_forward")).out.contains("(median of 3)"));
    assert_eq!(place.ok(&format!("{line} lora --dtype bf16 --json")).json()["dtype"], json!("bf16"));
}

#[test]
fn the_quickstart_needs_no_files_and_shows_what_changed() {
    let place = Place::new();
    let said = place.ok("quickstart --output here --max-steps 8 --json").json();
    assert_eq!((&said["method"], &said["steps"]), (&json!("lora"), &json!(8)));
    assert!(said["before"]["exact_match"].as_f64().unwrap() < 0.05, "the base does not know the task: {said}");
    let loss = |when: &str| said[when]["loss"].as_f64().unwrap();
    assert!(loss("after") < 0.8 * loss("before"), "{said}");
    assert_eq!(said["answers"].as_array().unwrap().len(), 3);

    place.run("quickstart --output here --max-steps 8").fails_with(&["`here` already holds a run", "--overwrite"]);
    let said = place.ok("quickstart --output here --max-steps 2 --overwrite").out;
    for part in ["before", "after", "expected", "The adapter is in here/adapter", "generate --model here/base"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let adalora = place.ok("quickstart --method adalora --output pruned --max-steps 6").out;
    assert!(adalora.contains("The rank that each module kept is in pruned/ranks.svg"), "{adalora}");
    // The folder is a model, its data and a run like any other.
    place.ok("eval --model here/base --adapter here/adapter --data here/data/task-valid.jsonl --json");
    place.ok("train here/config.toml --set output=again --set training.max_steps=1 --set training.warmup_steps=0");
}
