//! Files that gguf-py wrote (`tests/python/gguf_cases.py`), and broken ones.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use peft_burn::tensor_file::TensorFile;
use serde_json::Value as Json;

use super::value::Value;
use super::*;
use crate::{Input, Llama, LlamaConfig, Text};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf").join(name)
}

#[test]
fn every_type_has_the_values_of_gguf_py_to_the_bit() {
    let (file, expected) =
        (Gguf::open(&fixture("types.gguf")).unwrap(), TensorFile::open(fixture("types.safetensors")).unwrap());
    assert_eq!(file.tensors().count(), 15);
    for (name, info) in file.tensors() {
        let expected = expected.read(name).unwrap();
        assert_eq!(info.shape, expected.shape().to_vec(), "{name}");
        let (found, expected) = (file.widened(info), expected.iter::<f32>().collect::<Vec<_>>());
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected), "{name}");
    }
}

#[test]
fn a_tokenizer_gives_the_ids_of_the_one_it_was_made_of() {
    let text = Text::from_dir(fixture("tokenizer.gguf")).unwrap().unwrap();
    let cases: Json = serde_json::from_str(include_str!("../../tests/fixtures/chat.json")).unwrap();
    for case in cases["texts"].as_array().unwrap() {
        let said = case["text"].as_str().unwrap();
        let ids = text.tokenizer.encode(said, true).unwrap();
        assert_eq!(serde_json::json!(ids), case["ids"], "{said:?}");
        assert_eq!(serde_json::json!(text.tokenizer.decode(&ids, true).unwrap()), case["decoded"]);
    }
    assert_eq!(text.tokenizer.special_tokens().get("eos_token"), Some("<|eot_id|>"));
    assert!(text.template.is_some());
}

#[test]
fn a_file_that_is_changed_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    std::fs::copy(fixture("qwen3.gguf"), &path).unwrap();
    let first = directory(&path).unwrap();
    assert_eq!(weights_of(&first).unwrap(), Some(std::fs::canonicalize(&path).unwrap()));
    std::fs::copy(fixture("granite.gguf"), &path).unwrap();
    assert!(weights_of(&first).unwrap_err().to_string().contains("it was changed since"));
    assert_eq!(LlamaConfig::from_dir(&path).unwrap().model_type, "granite");
    assert!(Llama::from_dir(&path, None, &Device::flex()).is_ok());
    // A path that is no file passes as a directory, whether it exists or not.
    assert_eq!(directory(Path::new("no/such")).unwrap(), Path::new("no/such"));
}

/// `GGUF`, version 3, the counts, and what follows.
fn made(tensors: u64, values: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(values.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tensor's entry.
fn entry(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn hostile_headers_are_errors_before_memory_is_taken() {
    let huge = 1u64 << 60;
    let list = |kind: u32, len: u64| {
        [text("k"), 9u32.to_le_bytes().to_vec(), kind.to_le_bytes().to_vec(), len.to_le_bytes().to_vec()].concat()
    };
    let pad = |mut bytes: Vec<u8>| {
        bytes.resize(512, 0);
        bytes
    };
    let two = |a: Vec<u8>, b: Vec<u8>| pad(made(2, 0, &[a, b].concat()));
    let alignment =
        |n: u32| [text("general.alignment"), 4u32.to_le_bytes().to_vec(), n.to_le_bytes().to_vec()].concat();
    let lists = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    let deep = [text("k"), 9u32.to_le_bytes().to_vec(), lists.repeat(9)].concat();
    for (bytes, said) in [
        (b"GGML".to_vec(), "does not begin with GGUF"),
        (b"GG".to_vec(), "are left"),
        (b"GGUF\x01\0\0\0".to_vec(), "version 1"),
        (b"GGUF\0\0\0\x03".to_vec(), "big-endian"),
        (b"GGUF\x09\0\0\0".to_vec(), "version 9"),
        (made(huge, 0, &[]), "tensors, and"),
        (made(0, huge, &[]), "values, and"),
        (made(0, 1, &pad(huge.to_le_bytes().to_vec())), "a key at byte"),
        (made(0, 1, &pad(list(8, huge))), "entries, and"),
        (made(0, 1, &pad(list(4, huge))), "entries, and"),
        (made(0, 1, &pad(list(77, 1))), "unknown type 77"),
        (made(0, 1, &pad(deep)), "lists in lists"),
        (made(0, 1, &pad([text("k"), 99u32.to_le_bytes().to_vec()].concat())), "unknown type 99"),
        (made(0, 1, &pad([text("k"), 7u32.to_le_bytes().to_vec(), vec![9]].concat())), "neither 0 nor 1"),
        (made(0, 2, &pad([alignment(32), alignment(32)].concat())), "is there twice"),
        (made(0, 1, &pad(alignment(33))), "power of two"),
        (made(0, 1, &pad(alignment(0))), "power of two"),
        (pad(made(1, 0, &entry("t", &[4; 5], 0, 0))), "has 5 dimensions"),
        (pad(made(1, 0, &entry("t", &[], 0, 0))), "has 0 dimensions"),
        (pad(made(1, 0, &entry("t", &[huge, huge], 0, 0))), "impossible shape"),
        (pad(made(1, 0, &entry("t", &[0], 0, 0))), "impossible shape"),
        (pad(made(1, 0, &entry("t", &[huge], 0, 0))), "beyond the end"),
        (pad(made(1, 0, &entry("t", &[4], 0, !31))), "beyond the end"),
        (pad(made(1, 0, &entry("t", &[4], 0, 7))), "no multiple of 32"),
        (pad(made(1, 0, &entry("t", &[33], 8, 0))), "comes in blocks of 32"),
        (pad(made(1, 0, &entry("t", &[4], 4, 0))), "is of the type 4"),
        (two(entry("a", &[16], 0, 0), entry("b", &[16], 0, 32)), "lie on each other"),
        (two(entry("a", &[8], 0, 0), entry("a", &[8], 0, 32)), "is there twice"),
    ] {
        let error = header::read(&bytes).unwrap_err();
        assert!(error.contains(said), "{said:?} is not in: {error}");
    }
    assert!(header::read(&two(entry("a", &[8], 0, 0), entry("b", &[8], 0, 32))).is_ok());
}

#[test]
fn no_change_of_a_header_is_more_than_an_error() {
    // Each byte of a header turned, and each length cut: any answer will do, but there is one.
    let whole = std::fs::read(fixture("tokenizer.gguf")).unwrap();
    let end = whole.len();
    for at in (0..end).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] = bytes[at].wrapping_add(0x81);
        let _ = header::read(&bytes);
        let _ = header::read(&whole[..at]);
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let value = |key: &str, said: &str| [text(key), 8u32.to_le_bytes().to_vec(), text(said)].concat();
    let said = |values: &[Vec<u8>]| {
        let path = dir.path().join(format!("{}.gguf", values.len()));
        std::fs::write(&path, made(0, values.len() as u64, &[values.concat(), vec![0; 64]].concat())).unwrap();
        Llama::from_dir(&path, None, &Device::flex()).unwrap_err().to_string()
    };
    let error = said(&[value("general.architecture", "mamba")]);
    assert!(error.contains("the architecture is mamba; supported: llama, qwen2"), "{error}");
    let error = said(&[value("general.architecture", "llama"), value("general.type", "adapter")]);
    assert!(error.contains("the type `adapter`"), "{error}");
    let error = said(&[]);
    assert!(error.contains("the architecture is not named"), "{error}");
    let mut file = std::fs::read(fixture("tokenizer.gguf")).unwrap();
    let at = file.windows(9).position(|bytes| bytes == b"llama-bpe").unwrap();
    file[at..at + 9].copy_from_slice(b"gibberish");
    let path = dir.path().join("pre.gguf");
    std::fs::write(&path, file).unwrap();
    let error = Text::from_dir(&path).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.pre is `gibberish`, which is not known (known: llama-bpe"), "{error}");
}

/// The model of a file of so many layers with these keys beside those that every file has.
fn config_of(arch: &str, layers: u64, keys: &[(&str, Value)]) -> crate::error::Result<LlamaConfig> {
    let dir = tempfile::tempdir().unwrap();
    let size = |key: &str, n: u64| (format!("{arch}.{key}"), Value::Unsigned(n));
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::Text(arch.into())),
        size("embedding_length", 8),
        size("block_count", layers),
        size("feed_forward_length", 8),
        size("attention.head_count", 2),
        size("context_length", 64),
    ];
    metadata.extend(keys.iter().map(|(key, value)| (format!("{arch}.{key}"), value.clone())));
    let path = dir.path().join("model.gguf");
    let norms = (0..layers).map(|layer| (format!("blk.{layer}.attn_norm.weight"), vec![32]));
    let tensors = [("token_embd.weight".to_owned(), vec![4, 8])].into_iter().chain(norms);
    let planned: Vec<_> =
        tensors.map(|(name, shape)| write::Planned::new(name, shape, dequantise::Kind::F32)).collect();
    write::write(&path, &metadata, &planned, |_| vec![0.0; 32]).unwrap();
    LlamaConfig::from_json(&config::read(&Gguf::open(&path)?)?.config.to_string(), &path)
}

#[test]
fn windows_are_where_the_file_says() {
    let windowed = |arch: &str, keys: &[(&str, Value)]| -> Vec<bool> {
        let config = config_of(arch, 7, keys).unwrap();
        config.decoder.layers.iter().map(|layer| layer.windowed).collect()
    };
    let window = ("attention.sliding_window", Value::Unsigned(16));
    let pattern = |value: Value| ("attention.sliding_window_pattern", value);
    let every = |n: usize| -> Vec<bool> { (1..=7).map(|layer| layer % n != 0).collect() };
    assert_eq!(windowed("gemma3", std::slice::from_ref(&window)), every(6));
    assert_eq!(windowed("gemma3", &[window.clone(), pattern(Value::Unsigned(3))]), every(3));
    assert_eq!(windowed("gemma3", &[]), [false; 7]);
    assert_eq!(windowed("gemma2", &[]), every(2));
    assert_eq!(windowed("gemma2", &[pattern(Value::Unsigned(4))]), every(4));
    assert_eq!(windowed("gemma2", &[pattern(Value::Unsigned(0))]), [true; 7]);
    let list = [true, true, false, true, false, false, true];
    let flags = Value::List(list.iter().map(|flag| Value::Bool(*flag)).collect());
    assert_eq!(windowed("gemma3", &[window, pattern(flags)]), list);
}

#[test]
fn what_the_decoder_does_not_compute_is_refused_by_name() {
    let float = |x: f64| Value::Float(x);
    for (arch, key, value) in [
        ("llama", "expert_count", Value::Unsigned(8)),
        ("qwen2", "attention.causal", Value::Bool(false)),
        ("olmo2", "attention.sliding_window", Value::Unsigned(4096)),
        ("granite", "rope.scaling.finetuned", Value::Bool(false)),
        ("llama", "rope.scaling.attn_factor", float(1.5)),
    ] {
        let error = config_of(arch, 1, &[(key, value)]).unwrap_err().to_string();
        assert!(error.contains(&format!("{arch}.{key}")), "{error}");
    }
    // An old key, and the type that goes without saying.
    for keys in [[("rope.scale_linear", float(4.0))], [("rope.scaling.factor", float(4.0))]] {
        let config = config_of("llama", 1, &keys).unwrap();
        assert_eq!(config.rope.scaling, crate::config::RopeScaling::Linear { factor: 4.0 });
    }
    let none = [("rope.scaling.factor", float(4.0)), ("rope.scaling.type", Value::Text("none".into()))];
    assert_eq!(config_of("llama", 1, &none).unwrap().rope.scaling, crate::config::RopeScaling::Default);
}

#[test]
fn every_pattern_of_windows_that_a_file_can_name_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let json = |layers: &[&str]| {
        serde_json::json!({"model_type": "gemma3_text", "vocab_size": 4, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": layers.len(), "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
            "query_pre_attn_scalar": 4, "sliding_window": 8, "layer_types": layers, "rope_local_base_freq": 500.0})
    };
    let (near, far) = ("sliding_attention", "full_attention");
    for (i, layers) in [[near, far, near, far], [near, near, near, near], [near, near, far, near]].iter().enumerate() {
        let config = LlamaConfig::from_json(&json(layers).to_string(), Path::new("config.json")).unwrap();
        let (model, path) = (Llama::random(config, 3, &Device::flex()), dir.path().join(format!("{i}.gguf")));
        export(&model, dir.path(), &path, GgufType::F32).unwrap();
        let read = LlamaConfig::from_dir(&path).unwrap();
        assert_eq!(read.decoder.layers, model.config().decoder.layers);
        assert_eq!(read.decoder.local_rope, model.config().decoder.local_rope);
    }
    let config = LlamaConfig::from_json(&json(&[far, near, near, far]).to_string(), Path::new("config.json")).unwrap();
    let error =
        export(&Llama::random(config, 3, &Device::flex()), dir.path(), &dir.path().join("no.gguf"), GgufType::F32);
    assert!(error.unwrap_err().to_string().contains("which of its layers have a window"));
}

#[test]
fn sizes_that_no_tensor_bears_out_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("small.gguf")).unwrap();
    let key = b"llama.block_count";
    let at = whole.windows(key.len()).position(|bytes| bytes == key).unwrap() + key.len() + 4;
    for layers in [u32::MAX, 60_000, 12] {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&layers.to_le_bytes());
        let path = dir.path().join(format!("{layers}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        let error = Llama::from_dir(&path, None, &Device::flex()).unwrap_err().to_string();
        let said = format!("llama.block_count is {layers}, and there are only 11 tensors");
        assert!(error.contains(&said), "{error}");
    }
}

/// Models of sizes that llama.cpp has a place for; `tests/clients/llama-cpp` runs their like there.
#[test]
fn models_of_every_architecture_go_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    for (model_type, tied) in [
        ("llama", true),
        ("mistral", false),
        ("qwen2", true),
        ("qwen3", false),
        ("gemma", true),
        ("gemma2", true),
        ("gemma3_text", false),
        ("phi3", false),
        ("smollm3", true),
        ("olmo2", false),
        ("granite", true),
    ] {
        let json = serde_json::json!({"model_type": model_type, "vocab_size": 12, "hidden_size": 24,
            "intermediate_size": 20, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 6, "query_pre_attn_scalar": 6, "max_position_embeddings": 64, "sliding_window": null,
            "tie_word_embeddings": tied, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2});
        let json = match model_type {
            "gemma2" | "gemma3_text" => {
                let mut json = json;
                json["sliding_window"] = 3.into();
                json
            }
            _ => json,
        };
        let config = LlamaConfig::from_json(&json.to_string(), Path::new("config.json")).unwrap();
        let (model, path) = (Llama::random(config, 3, &device), dir.path().join(format!("{model_type}.gguf")));
        export(&model, dir.path(), &path, GgufType::F32).unwrap();
        let again = Llama::from_dir(&path, None, &device).unwrap();
        let logits = |model: &Llama| -> Vec<f32> {
            let input = Input::from_rows(&[vec![1, 5, 9, 2, 7, 3, 3, 8]], &device);
            model.forward(&input).into_data().iter().collect()
        };
        let (ours, read) = (logits(&model), logits(&again));
        let worst = ours.iter().zip(&read).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4 && ours.iter().any(|v| v.abs() > 0.01), "{model_type}: {worst}");
    }
}

#[test]
fn what_llama_cpp_would_not_load_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    for (arch, keys, said) in [
        ("qwen3", serde_json::json!({"attention_bias": true}), "the bias blk.0.attn_output.bias"),
        ("qwen2", serde_json::json!({"head_dim": 8}), "heads that are 32 wide together beside a hidden_size of 24"),
        ("gemma", serde_json::json!({"tie_word_embeddings": false}), "a head of its own"),
        ("olmo2", serde_json::json!({"tie_word_embeddings": true}), "a head that is the embedding"),
    ] {
        let mut json = serde_json::json!({"model_type": arch, "vocab_size": 12, "hidden_size": 24, "head_dim": 6,
            "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2});
        keys.as_object().unwrap().iter().for_each(|(key, value)| json[key] = value.clone());
        let config = LlamaConfig::from_json(&json.to_string(), Path::new("config.json")).unwrap();
        let path = dir.path().join("no.gguf");
        let error = export(&Llama::random(config, 3, &Device::flex()), dir.path(), &path, GgufType::F32).unwrap_err();
        assert!(error.to_string().contains(said) && !path.exists(), "{error}");
    }
}
