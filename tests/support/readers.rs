//! Every reader of files, fed with bytes: for the mutation test, and for the fuzz targets in `tests/fuzz`.

use std::path::Path;
use std::sync::OnceLock;

use burn::tensor::Device;
use llama_burn::{
    ChatTemplate, Conversation, GenerationDefaults, Input, Llama, LlamaConfig, Message, ModelSummary, Text, Tokenizer,
    unpack_gguf,
};
use peft_burn::tensor_file::TensorFile;
use peft_burn::{AdapterFiles, AdapterSummary, PeftConfig, PeftModel, adalora};
use peft_learner::config::RunConfig;
use peft_learner::data::{DataCache, EncodeOptions, Part, Preparation};
use peft_learner::report::read_metrics;
use peft_learner::train::{Checkpoints, TrainerState};

use crate::{adapted, base, fixtures};

/// A reader of one kind of file.
#[derive(Clone, Copy)]
pub struct Reader {
    /// The kind.
    pub name: &'static str,
    /// Files of the fixtures to begin with.
    pub seeds: &'static [&'static str],
    /// Reads the bytes as users' files are read, and uses what was read. `dir` is an empty folder. Errors are no fault.
    pub read: fn(bytes: &[u8], dir: &Path),
}

/// All of them.
pub const READERS: &[Reader] = &[
    Reader {
        name: "safetensors",
        seeds: &["adapters/plain/adapter_model.safetensors", "two_active.safetensors"],
        read: safetensors,
    },
    Reader {
        name: "torch",
        seeds: &["adapters/bin/adapter_model.bin", "adapters/bin_legacy/adapter_model.bin"],
        read: torch,
    },
    Reader {
        name: "adapter",
        seeds: &["adapters/plain/adapter_model.safetensors", "adapters/without_prefix/adapter_model.safetensors"],
        read: adapter,
    },
    Reader {
        name: "adapter_config",
        seeds: &[
            "adapters/plain/adapter_config.json",
            "adapters/eva/adapter_config.json",
            "adapters/mlx_lora/adapter_config.json",
            "goldens/adalora/adapter/adapter_config.json",
            "goldens/vera/adapter/adapter_config.json",
            "goldens/ia3/adapter/adapter_config.json",
            "goldens/loha/adapter/adapter_config.json",
        ],
        read: adapter_config,
    },
    Reader {
        name: "config",
        seeds: &[
            "glassllm-en/config.json",
            "checkpoints/tied/config.json",
            "families/gemma3_text/config.json",
            "families/phi3_longrope/config.json",
            "families/smollm3/config.json",
            "families/mistral_yarn/config.json",
        ],
        read: config,
    },
    Reader { name: "tokenizer", seeds: &["glassllm-en/tokenizer.json"], read: tokenizer },
    Reader { name: "tokenizer_config", seeds: &["glassllm-en/tokenizer_config.json"], read: tokenizer_config },
    Reader {
        name: "gguf",
        seeds: &[
            "gguf/tokenizer.gguf",
            "gguf/types.gguf",
            "gguf/qwen3.gguf",
            "gguf/phi3_longrope.gguf",
            "gguf/gemma.gguf",
        ],
        read: gguf,
    },
    Reader { name: "index", seeds: &["checkpoints/bin_sharded/pytorch_model.bin.index.json"], read: index },
    Reader {
        name: "template",
        seeds: &[
            "../../crates/llama-burn/tests/fixtures/templates/smollm2.jinja",
            "../../crates/llama-burn/tests/fixtures/templates/llama-3.2.jinja",
            "../../crates/llama-burn/tests/fixtures/templates/python.jinja",
        ],
        read: template,
    },
    Reader {
        name: "rows",
        seeds: &[
            "data/alpaca.jsonl",
            "data/messages_marked.jsonl",
            "data/sharegpt_calls.jsonl",
            "data/tools.jsonl",
            "data/ids_labels.jsonl",
            "data/text_world.jsonl",
        ],
        read: rows,
    },
    Reader { name: "csv", seeds: &["data/text_world.csv", "csv/cells.csv"], read: csv },
    Reader { name: "run_config", seeds: &["../../examples/movie-sentiment.toml"], read: run_config },
    Reader { name: "trainer_state", seeds: &["trainer_state.json"], read: trainer_state },
    Reader { name: "metrics", seeds: &["metrics.jsonl"], read: metrics },
];

/// The reader called `name`.
pub fn reader(name: &str) -> Reader {
    *READERS.iter().find(|reader| reader.name == name).unwrap_or_else(|| panic!("there is no reader {name}"))
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn tensors_of(name: &str, bytes: &[u8], dir: &Path) {
    write(dir, name, bytes);
    let Ok(file) = TensorFile::open(dir.join(name)) else { return };
    let names: Vec<_> = file.names().map(str::to_owned).collect();
    for name in names {
        let _ = (file.shape(&name), file.dtype(&name), file.num_bytes(&name), file.read(&name).is_ok());
    }
}

fn safetensors(bytes: &[u8], dir: &Path) {
    tensors_of("model.safetensors", bytes, dir);
}

fn torch(bytes: &[u8], dir: &Path) {
    tensors_of("model.bin", bytes, dir);
}

/// The tensors of an adapter, loaded into a model.
fn adapter(bytes: &[u8], dir: &Path) {
    static BASE: OnceLock<Llama> = OnceLock::new();
    let config = std::fs::read(fixtures().join("adapters/plain/adapter_config.json")).unwrap();
    write(dir, "adapter_config.json", &config);
    write(dir, "adapter_model.safetensors", bytes);
    let mut model = BASE.get_or_init(|| base("base")).clone();
    if model.load_adapter(dir, "default", false).is_ok() {
        let _ = model.merge_adapters(&["default"], true);
    }
}

fn adapter_config(bytes: &[u8], dir: &Path) {
    static BASE: OnceLock<Llama> = OnceLock::new();
    write(dir, "adapter_config.json", bytes);
    let _ = AdapterSummary::read(dir).map(|summary| summary.parameters);
    let Ok((config, _)) = PeftConfig::from_json(bytes, Path::new("adapter_config.json")) else { return };
    let _ = (config.to_json(), config.to_user_json(), PeftConfig::from_map(config.to_user_json()).is_ok());
    if config.validate().is_ok() {
        // A rank within reason: what does not fit into memory is no matter of the reader.
        let model = BASE.get_or_init(|| base("base"));
        let resolved = peft_burn::targets::resolve(&config, &model_modules(model), "llama");
        let fits = resolved.is_ok_and(|r| r.adapted.iter().all(|m| config.parameters(m) < 1 << 16));
        if fits {
            let _ = model.clone().add_adapter("default", &config, 7);
        }
    }
}

fn model_modules(model: &Llama) -> Vec<peft_burn::targets::ModuleInfo> {
    peft_burn::AdaptableModel::modules(model)
}

fn config(bytes: &[u8], dir: &Path) {
    write(dir, "config.json", bytes);
    write(dir, "generation_config.json", bytes);
    let _ = GenerationDefaults::from_dir(dir).map(|defaults| defaults.honoured(true));
    let Ok(config) = LlamaConfig::from_dir(dir) else { return };
    let _ = (config.num_parameters(), config.differences(&config));
    let again = LlamaConfig::from_json(&config.to_hf_json().to_string(), "again").map(|again| again == config);
    assert!(again.is_ok_and(|same| same), "what is written reads back as the same");
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    let ids = tokenizer.encode("Alice was beginning to get very tired. <|im_start|>é😀", true).unwrap_or_default();
    let _ = (tokenizer.decode(&ids, true), tokenizer.decode(&[0, 1, u32::MAX], false), tokenizer.vocab_size());
    for id in ids {
        let _ = (tokenizer.token_bytes(id), tokenizer.id_to_token(id), tokenizer.is_special(id));
    }
}

fn tokenizer(bytes: &[u8], _: &Path) {
    if let Ok(tokenizer) = Tokenizer::from_bytes(bytes, None) {
        use_tokenizer(&tokenizer);
    }
}

fn tokenizer_config(bytes: &[u8], dir: &Path) {
    let json = std::fs::read(fixtures().join("glassllm-en/tokenizer.json")).unwrap();
    if let Ok(tokenizer) = Tokenizer::from_bytes(&json, Some(bytes)) {
        use_tokenizer(&tokenizer);
    }
    write(dir, "tokenizer_config.json", bytes);
    if let Ok(Some(template)) = ChatTemplate::find(dir) {
        let _ = template.render(&conversation(), true);
    }
}

/// Header, tokenizer, and tensors as a model. The folder is given, so that nothing stays in the user's cache.
fn gguf(bytes: &[u8], dir: &Path) {
    write(dir, "model.gguf", bytes);
    let unpacked = dir.join("model");
    if unpack_gguf(dir.join("model.gguf"), &unpacked).is_err() {
        return;
    }
    let _ = ModelSummary::read(&unpacked).is_ok();
    if let Ok(Some(text)) = Text::from_dir(&unpacked) {
        use_tokenizer(&text.tokenizer);
    }
    if let Ok(model) = Llama::from_dir(&unpacked, None, &Device::flex()) {
        let _ = model.forward(&Input::from_rows(&[vec![0, 1, 2]], &model.device()));
    }
}

fn index(bytes: &[u8], dir: &Path) {
    let from = fixtures().join("checkpoints/bin_sharded");
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    write(dir, "pytorch_model.bin.index.json", bytes);
    let _ = (ModelSummary::read(dir).is_ok(), Llama::from_dir(dir, None, &Device::flex()).is_ok());
}

fn conversation() -> Conversation {
    Conversation::new([
        Message::new("system", "Be brief."),
        Message::new("user", "Hi"),
        Message::new("assistant", "Ho"),
    ])
}

fn template(bytes: &[u8], _: &Path) {
    static TEXT: OnceLock<Text> = OnceLock::new();
    let text = TEXT.get_or_init(text);
    let source = String::from_utf8_lossy(bytes);
    let Ok(template) = ChatTemplate::new(&source, text.tokenizer.special_tokens()) else { return };
    let text = Text { template: Some(template), ..text.clone() };
    let _ = (text.encode_chat_prompt(&conversation()), text.encode_chat(&conversation()));
}

fn text() -> Text {
    Text::from_dir(fixtures().join("glassllm-en")).unwrap().unwrap()
}

fn rows_of(name: &str, bytes: &[u8], dir: &Path) {
    static TEXT: OnceLock<Text> = OnceLock::new();
    write(dir, name, bytes);
    let options = EncodeOptions { max_length: 64, vocab_size: 2048 };
    let preparation = Preparation::new(Some(TEXT.get_or_init(text)), options).cache(DataCache::Off);
    if let Ok(prepared) = preparation.sources(&[dir.join(name).into()], Part::Train) {
        let _ = prepared.examples.to_vec();
    }
}

fn rows(bytes: &[u8], dir: &Path) {
    rows_of("rows.jsonl", bytes, dir);
    rows_of("rows.json", bytes, dir);
}

fn csv(bytes: &[u8], dir: &Path) {
    rows_of("rows.csv", bytes, dir);
}

fn run_config(bytes: &[u8], _: &Path) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(config) = RunConfig::parse("run.toml", &text, &[]) else { return };
    if let Ok(again) = config.to_toml() {
        assert!(
            RunConfig::parse("again.toml", &again, &[]).is_ok_and(|c| c == config),
            "it reads back as the same:\n{again}"
        );
    }
    if let peft_learner::config::AdapterSource::Config(keys) = config.adapter {
        let _ = PeftConfig::from_map(keys);
    }
}

fn trainer_state(bytes: &[u8], dir: &Path) {
    static PRUNED: OnceLock<Llama> = OnceLock::new();
    write(dir, "checkpoints/step-4/trainer_state.json", bytes);
    let blank = r#"{"global_step": 0, "seed": 0}"#;
    let blank: TrainerState = serde_json::from_str(blank).unwrap();
    let checkpoints = Checkpoints::new(dir.join("checkpoints"), 2, blank);
    let Ok(Some(state)) = checkpoints.latest_state() else { return };
    if let Some(triplets) = &state.triplets {
        let mut model = PRUNED.get_or_init(|| adapted("adalora", "adapter")).clone();
        let _ = adalora::shrink_to(&mut model, "default", triplets);
    }
}

fn metrics(bytes: &[u8], dir: &Path) {
    write(dir, "metrics.jsonl", bytes);
    if let Ok(lines) = read_metrics(dir.join("metrics.jsonl")) {
        let _ = peft_learner::report::write_loss_plot(dir.join("loss.svg"), "Loss", &lines);
    }
    let _ = peft_learner::report::truncate_after(dir.join("metrics.jsonl"), 2);
}

/// The seeds of a reader, by their bytes.
pub fn seeds(reader: &Reader) -> Vec<Vec<u8>> {
    let read = |name: &&str| match *name {
        "trainer_state.json" => STATE.as_bytes().to_vec(),
        "metrics.jsonl" => METRICS.as_bytes().to_vec(),
        name => std::fs::read(fixtures().join(name)).unwrap_or_else(|error| panic!("{name}: {error}")),
    };
    reader.seeds.iter().map(read).collect()
}

const STATE: &str = r#"{"global_step": 4, "seed": 42, "triplets": {
  "model.layers.0.self_attn.q_proj.lora_E": [true, false, true, true, false, false],
  "model.layers.0.self_attn.v_proj.lora_E": [false, false, false, false, false, false]},
  "max_steps": 12, "contents": {"data": "1f2e", "base": "03ab"}, "devices": 1}"#;

const METRICS: &str = r#"{"split":"train","step":1,"loss":2.5,"learning_rate":0.001,"grad_norm":1.5,"tokens":64,"tokens_per_second":1000.0}
{"split":"valid","step":1,"loss":2.25,"perplexity":9.5,"tokens":32}
{"split":"train","step":2,"loss":2.0,"learning_rate":0.001,"grad_norm":0.5,"tokens":64,"tokens_per_second":1200.0,"task_loss":1.9,"orthogonal_loss":0.1,"budget":12,"live_triplets":9}
"#;
