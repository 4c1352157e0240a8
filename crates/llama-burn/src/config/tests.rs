//! Files of `config.json` as people have them, and broken ones.

use super::*;

fn read(config: Value) -> Result<LlamaConfig> {
    LlamaConfig::from_json(&config.to_string(), Path::new("m/config.json"))
}

fn v4() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "vocab_size": 128256
    })
}

/// `v4` with `keys` put over it; null takes a key away.
fn v4_with(keys: Value) -> Value {
    let mut config = v4();
    for (key, value) in keys.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().shift_remove(key)),
            value => config[key] = value.clone(),
        }
    }
    config
}

fn problems(keys: Value) -> String {
    read(v4_with(keys)).unwrap_err().to_string()
}

#[test]
fn both_spellings_read_the_same() {
    let config = read(v4()).unwrap();
    assert_eq!(config.head_dim, 128);
    assert_eq!(config.eos_token_ids, [128001, 128008, 128009]);
    assert_eq!(config.dtype, Dtype::Bf16);
    assert_eq!(config.num_parameters(), 8_030_261_248);
    let v5 = v4_with(json!({
        "rope_theta": null, "rope_scaling": null, "torch_dtype": null, "dtype": "bfloat16",
        "rope_parameters": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_theta": 500000.0,
                            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    }));
    assert_eq!(read(v5).unwrap(), config);
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let sizes = json!({"model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128,
                       "num_hidden_layers": 2, "num_attention_heads": 4});
    let config = read(sizes).unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads, config.max_position_embeddings), (16, 4, 2048));
    assert_eq!((config.rms_norm_eps, config.initializer_range), (1e-6, 0.02));
    assert_eq!(config.rope, RopeConfig { theta: 10_000.0, scaling: RopeScaling::Default });
    assert_eq!((config.bos_token_id, config.eos_token_ids, config.pad_token_id), (Some(1), vec![2], None));
    assert!(!config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
}

#[test]
fn what_does_not_change_the_products_is_read_and_auto_is_the_files_dtype() {
    let config = read(v4_with(json!({"pretraining_tp": 4, "attention_dropout": 0.1, "torch_dtype": "auto"}))).unwrap();
    assert_eq!((config.attention_dropout, config.dtype), (0.1, Dtype::F32));
    assert_eq!(read(config.to_hf_json()).unwrap(), config);
}

#[test]
fn null_and_minus_one_mean_no_such_token() {
    let mut config = v4();
    config["bos_token_id"] = Value::Null;
    config["eos_token_id"] = Value::Null;
    config["pad_token_id"] = json!(-1);
    let config = read(config).unwrap();
    assert_eq!((config.bos_token_id, config.eos_token_ids, config.pad_token_id), (None, vec![], None));
}

#[test]
fn hf_json_reads_back_the_same() {
    let mut config = read(v4()).unwrap();
    assert_eq!(read(config.to_hf_json()).unwrap(), config);
    config.rope = RopeConfig { theta: 1e4, scaling: RopeScaling::Linear { factor: 2.0 } };
    (config.bos_token_id, config.eos_token_ids, config.tie_word_embeddings) = (None, vec![], true);
    assert_eq!(read(config.to_hf_json()).unwrap(), config);
}

#[test]
fn parameters_with_biases_and_tied_head() {
    let sizes = json!({"model_type": "llama", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "head_dim": 2,
                       "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
                       "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true});
    let (q, k, v, o) = (8 * 4 + 8, 4 * 4 + 4, 4 * 4 + 4, 4 * 8 + 4);
    let (gate, up, down) = (6 * 4 + 6, 6 * 4 + 6, 4 * 6 + 4);
    let expected = 10 * 4 + (q + k + v + o + gate + up + down + 2 * 4) + 4;
    assert_eq!(read(sizes).unwrap().num_parameters(), expected);
}

#[test]
fn generation_config_names_the_stop_tokens() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), v4_with(json!({"eos_token_id": 128001})).to_string()).unwrap();
    assert_eq!(LlamaConfig::from_dir(dir.path()).unwrap().eos_token_ids, [128001]);
    let generation = dir.path().join("generation_config.json");
    std::fs::write(&generation, r#"{"eos_token_id": [128001, 128009], "pad_token_id": 128004}"#).unwrap();
    let config = LlamaConfig::from_dir(dir.path()).unwrap();
    assert_eq!((config.eos_token_ids, config.pad_token_id), (vec![128001, 128009], Some(128004)));
    std::fs::write(&generation, r#"{"eos_token_id": "</s>"}"#).unwrap();
    let error = LlamaConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("generation_config.json: eos_token_id: must be a token id"), "{error}");
}

#[test]
fn another_architecture_is_named() {
    let error = problems(json!({"architectures": ["FalconForCausalLM"], "model_type": "falcon"}));
    let expected = "m/config.json: the architecture is FalconForCausalLM (model_type \"falcon\"); \
                    supported: LlamaForCausalLM (model_type \"llama\"), MistralForCausalLM (model_type \"mistral\"), ";
    assert!(error.starts_with(expected), "{error}");
    let error = problems(json!({"architectures": ["LlamaForSequenceClassification"]}));
    assert!(error.contains("the architecture is LlamaForSequenceClassification (model_type"), "{error}");
    let error = problems(json!({"architectures": null, "model_type": null}));
    assert!(error.contains("not named"), "{error}");
    assert!(read(v4_with(json!({"architectures": null}))).is_ok());
}

#[test]
fn every_problem_is_in_one_error() {
    let error = problems(json!({
        "hidden_size": null, "vocab_size": "big", "num_hidden_layers": 0, "hidden_act": "gelu", "pretraining_tp": 0, "attention_dropout": 1.5,
        "rms_norm_eps": -1, "num_key_value_heads": 5, "mlp_bias": "yes", "torch_dtype": "int8", "eos_token_id": "x",
        "rope_scaling": {"type": "ntk", "factor": 2.0}, "quantization_config": {"bits": 4},
    }));
    for part in [
        "hidden_size: is missing",
        "vocab_size: must be a whole number from 1 to 268435456, but is \"big\"",
        "num_hidden_layers: must be a whole number from 1 to 268435456, but is 0",
        "hidden_act: is \"gelu\"; only \"silu\" is supported",
        "pretraining_tp: must be a whole number from 1 to 268435456, but is 0",
        "attention_dropout: is 1.5; it is a probability, from 0 to below 1",
        "rms_norm_eps: must be a number above 0, but is -1",
        "num_attention_heads: 32 is not a multiple of num_key_value_heads 5",
        "mlp_bias: must be true or false, but is \"yes\"",
        "torch_dtype: \"int8\" is not supported",
        "eos_token_id: must be a token id or a list of them, but is \"x\"",
        "rope_scaling.rope_type: \"ntk\" is not supported (supported: default, linear, llama3, dynamic, yarn, longrope)",
        "quantization_config: it names no quant_method",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn impossible_rope_and_head_sizes_are_refused() {
    let error = problems(json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                                                 "high_freq_factor": 4.0}}));
    assert!(error.contains("rope_scaling.low_freq_factor: 4 must be below high_freq_factor 4"), "{error}");
    let error = problems(json!({"rope_scaling": "linear"}));
    assert!(error.contains("rope_scaling: must be an object"), "{error}");
    let error = problems(json!({"rope_scaling": {"type": "linear"}}));
    assert!(error.contains("rope_scaling.factor: is missing"), "{error}");
    let error = problems(json!({"head_dim": 63}));
    assert!(error.contains("head_dim: 63 must be even"), "{error}");
    let error = problems(json!({"hidden_size": 4100}));
    assert!(error.contains("hidden_size: 4100 is not a multiple of num_attention_heads 32"), "{error}");
}

#[test]
fn sizes_beyond_any_model_neither_overflow_nor_pass() {
    let large = json!({"hidden_size": 1 << 28, "intermediate_size": 1 << 28, "num_attention_heads": 1 << 28,
                       "num_key_value_heads": 1 << 28, "head_dim": 1 << 28, "num_hidden_layers": 1 << 16});
    assert_eq!(read(v4_with(large)).unwrap().num_parameters(), usize::MAX);
    let error = problems(json!({"num_hidden_layers": (1 << 16) + 1}));
    assert!(error.contains("num_hidden_layers: is 65537; 65536 are possible"), "{error}");
    let error = problems(json!({"vocab_size": u64::MAX}));
    assert!(error.contains("vocab_size: must be a whole number from 1 to 268435456"), "{error}");
}

#[test]
fn unreadable_files_are_named() {
    let error = LlamaConfig::from_dir("no/such/dir").unwrap_err().to_string();
    assert!(error.starts_with("no/such/dir/config.json: "), "{error}");
    let error = LlamaConfig::from_json("{\"vocab_size\": ", Path::new("m/config.json")).unwrap_err().to_string();
    assert!(error.starts_with("m/config.json is not valid JSON"), "{error}");
}
