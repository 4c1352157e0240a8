//! A workplace: a temporary folder with data, in which `peft` is run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use burn::tensor::Device;
use llama_burn::{Llama, LlamaConfig};
use serde_json::Value;
use tempfile::TempDir;

/// The real small model of the repository.
pub fn glassllm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/glassllm-en").canonicalize().unwrap()
}

/// The folder of the files that the tests were given.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").canonicalize().unwrap()
}

/// The output of `peft`.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The one JSON object on stdout.
    pub fn json(&self) -> Value {
        assert_eq!(self.out.trim_end().lines().count(), 1, "one line on stdout:\n{}", self.out);
        let value: Value = serde_json::from_str(&self.out).unwrap();
        assert!(value.is_object());
        value
    }

    /// stderr of a command that failed with status 1, which says all of `parts`.
    pub fn fails_with(&self, parts: &[&str]) -> &str {
        assert_eq!(self.code, 1, "stdout: {}\nstderr: {}", self.out, self.err);
        assert_eq!(self.out, "", "an error leaves stdout empty");
        assert!(!self.err.contains("panicked"), "{}", self.err);
        parts.iter().for_each(|part| assert!(self.err.contains(part), "{part:?} is not in:\n{}", self.err));
        &self.err
    }
}

/// A command fails, and its help line says all of `help`.
pub fn helps(said: &Said, cause: &str, help: &[&str]) {
    said.fails_with(&[cause]);
    let (_, line) = said.err.split_once("help:").unwrap_or_else(|| panic!("no help line: {}", said.err));
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    help.iter().for_each(|part| assert!(line.contains(part), "{part:?} is not in {line:?}"));
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A folder to run `peft` in, with `train.jsonl` and `run.toml` (LoRA on the real small model, 12 steps).
pub struct Place {
    dir: TempDir,
}

pub const ROWS: &str = r#"{"prompt":"Alice was","completion":" beginning to get very tired"}
{"prompt":"The Queen","completion":" of Hearts she made some tarts"}
{"prompt":"Said the King","completion":" to the Rabbit: go away!"}
{"prompt":"Down the hole","completion":" she went, and never looked back"}
"#;

impl Place {
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.write("train.jsonl", ROWS);
        let model = glassllm().display().to_string();
        place.write(
            "run.toml",
            &format!(
                r#"
output = "run"
[model]
path = "{model}"
[adapter]
peft_type = "LORA"
r = 4
lora_alpha = 16
lora_dropout = 0.1
target_modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
[data]
train = "train.jsonl"
max_length = 64
[training]
max_steps = 12
per_device_train_batch_size = 2
learning_rate = 1e-2
eval_steps = 6
save_steps = 4
"#
            ),
        );
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The command, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peft"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn peft(&self, args: &[&str]) -> Said {
        self.command(args).output().unwrap().into()
    }

    /// `peft` with the arguments of one line, without spaces in them.
    pub fn run(&self, line: &str) -> Said {
        self.peft(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// As [`Self::run`], for what must go well.
    pub fn ok(&self, line: &str) -> Said {
        let said = self.run(line);
        assert_eq!(said.code, 0, "peft {line}\n{}{}", said.out, said.err);
        said
    }

    /// The mean loss of a model, perhaps with an adapter, over a file of rows.
    pub fn eval(&self, model: &Path, adapter: Option<&Path>, rows: &Path) -> Said {
        let mut args = vec!["eval", "--json", "--model", model.to_str().unwrap(), "--data", rows.to_str().unwrap()];
        args.extend(adapter.map(|adapter| ["--adapter", adapter.to_str().unwrap()]).into_iter().flatten());
        self.peft(&args)
    }

    /// [`Self::eval`] of what must go well, as a number.
    pub fn loss(&self, model: &Path, adapter: Option<&Path>, rows: &Path) -> f64 {
        let said = self.eval(model, adapter, rows);
        assert_eq!(said.code, 0, "{} with {adapter:?}: {}", model.display(), said.err);
        said.json()["loss"].as_f64().unwrap()
    }

    /// The losses that Transformers and PEFT compute, for jobs of `model`, `adapter` and `rows`; `None` without them.
    pub fn losses_there(&self, jobs: &[Value]) -> Option<Vec<f64>> {
        let python = peft_burn_workspace::python_with(&["peft", "torch", "transformers"])?;
        self.write("jobs.json", &Value::from(jobs.to_vec()).to_string());
        peft_burn_workspace::run_script(&python, "losses.py", &self.path("jobs.json"));
        Some(serde_json::from_slice(&self.read("losses.json")).unwrap())
    }

    /// A copy of the folder `from`, as `name`.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        std::fs::create_dir_all(self.path(name)).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), self.path(name).join(entry.file_name())).unwrap();
        }
        self.path(name)
    }

    /// A copy of the real small model, to be damaged.
    pub fn copy_model(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(glassllm().join(file), self.path(name).join(file)).unwrap();
        }
    }

    /// A random model without a tokenizer, in bf16.
    pub fn random_model(&self, name: &str) {
        let config = r#"{"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32, "tie_word_embeddings": true, "initializer_range": 0.2}"#;
        let config = LlamaConfig::from_json(config, Path::new("config.json")).unwrap();
        let model = Llama::random(config, 7, &Device::flex());
        model.save(self.path(name), Some(burn::tensor::FloatDType::BF16)).unwrap();
    }

    /// Every line of a run's metrics, but for the times.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = String::from_utf8(self.read(&format!("{run}/metrics.jsonl"))).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|mut line| {
                line.as_object_mut().unwrap().remove("tokens_per_second");
                line
            })
            .collect()
    }
}
