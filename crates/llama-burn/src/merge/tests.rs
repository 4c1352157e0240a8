use std::path::Path;

use burn::tensor::TensorData;
use peft_burn::{AdaLoraConfig, Ia3Config, LoraConfig, PeftConfig, TargetModules, TensorRng, VeraConfig};

use super::*;
use crate::Input;

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 24, "hidden_size": 16, "intermediate_size": 20,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "initializer_range": 0.3, "unknown_key": [1, 2]}"#;

/// A tied base, an adapter with random values on it, and the logits of both together.
fn make(dir: &Path, config: impl Into<PeftConfig>) -> Vec<f32> {
    let device = Device::flex();
    let shape = LlamaConfig::from_json(CONFIG, Path::new("config.json")).unwrap();
    let mut model = Llama::random(shape, 1, &device);
    model.save(dir.join("base"), None).unwrap();
    std::fs::write(dir.join("base/config.json"), CONFIG).unwrap();
    std::fs::write(dir.join("base/tokenizer.json"), "{\"any\": 1}").unwrap();
    model.add_adapter("x", &config.into(), 3).unwrap();
    let shapes: Vec<_> = model.adapter_params("x").unwrap().iter().map(|(_, param)| param.shape()).collect();
    for ((key, mut param), shape) in model.adapter_params_mut("x").unwrap().into_iter().zip(shapes) {
        let values = TensorRng::new(5, &key).normal(shape.iter().product(), 0.2);
        param.set(TensorData::new(values, shape));
    }
    model.save_adapter("x", dir.join("adapter")).unwrap();
    logits(&model)
}

fn logits(model: &Llama) -> Vec<f32> {
    let input = Input::from_rows(&[vec![1, 5, 9, 2], vec![3, 3, 20, 7]], &model.device());
    model.forward(&input).into_data().iter::<f32>().collect()
}

fn close(a: &[f32], b: &[f32]) {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "differs by {worst}");
}

fn lora(targets: &[&str]) -> LoraConfig {
    LoraConfig { r: 2, target_modules: TargetModules::list(targets.to_vec()), ..LoraConfig::default() }
}

/// DoRA, VeRA, AdaLoRA and IA3.
fn every_method(targets: &[&str]) -> [PeftConfig; 4] {
    let target_modules = TargetModules::list(targets.to_vec());
    let adalora = AdaLoraConfig { init_r: 3, target_r: 2, target_modules, ..AdaLoraConfig::default() };
    let vera = VeraConfig { r: 4, target_modules: adalora.target_modules.clone(), ..VeraConfig::default() };
    let ia3 = Ia3Config { target_modules: adalora.target_modules.clone(), ..Ia3Config::default() };
    [LoraConfig { use_dora: true, ..lora(targets) }.into(), adalora.into(), vera.into(), ia3.into()]
}

#[test]
fn the_merged_directory_is_the_base_with_other_weights() {
    let dir = tempfile::tempdir().unwrap();
    let expected = make(dir.path(), lora(&["q_proj", "down_proj"]));
    let [base, adapter, out] = ["base", "adapter", "out"].map(|name| dir.path().join(name));
    let report = merge_into(&base, &adapter, &out, &Device::flex()).unwrap();
    assert_eq!((report.merged_modules, report.untied), (4, false));
    for name in ["config.json", "tokenizer.json"] {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), std::fs::read(base.join(name)).unwrap(), "{name}");
    }
    close(&logits(&Llama::from_dir(&out, None, &Device::flex()).unwrap()), &expected);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing is left beside: {names:?}");
}

#[test]
fn an_adapter_on_one_end_of_a_tied_pair_unties_it() {
    let saved = LoraConfig { modules_to_save: Some(vec!["lm_head".into()]), ..lora(&["q_proj"]) };
    let embedding = LoraConfig { modules_to_save: Some(vec!["embed_tokens".into()]), ..lora(&["q_proj"]) };
    let loras = [lora(&["lm_head"]), lora(&["embed_tokens"]), saved, embedding].map(PeftConfig::from);
    for config in loras.into_iter().chain(every_method(&["lm_head"])) {
        let dir = tempfile::tempdir().unwrap();
        let expected = make(dir.path(), config.clone());
        let [base, adapter, out] = ["base", "adapter", "out"].map(|name| dir.path().join(name));
        assert!(merge_into(&base, &adapter, &out, &Device::flex()).unwrap().untied, "{config:?}");
        let model = Llama::from_dir(&out, None, &Device::flex()).unwrap();
        assert!(!model.config().tie_word_embeddings);
        close(&logits(&model), &expected);
        assert!(std::fs::read_to_string(out.join("config.json")).unwrap().contains("unknown_key"));
    }
}

#[test]
fn a_model_in_memory_merges_as_the_directory_does_and_unmerges_to_what_it_was() {
    let rows = Some(peft_burn::TokenIndices::List(vec![5, 20]));
    let saved = |name: &str| LoraConfig { modules_to_save: Some(vec![name.into()]), ..lora(&["q_proj"]) };
    for (config, untied) in [
        (lora(&["lm_head"]), true),
        (lora(&["embed_tokens"]), true),
        (saved("lm_head"), true),
        (saved("embed_tokens"), true),
        (LoraConfig { trainable_token_indices: rows.clone(), ..lora(&["q_proj"]) }, false),
    ]
    .into_iter()
    .map(|(config, untied)| (PeftConfig::from(config), untied))
    .chain(every_method(&["lm_head"]).map(|config| (config, true)))
    {
        let dir = tempfile::tempdir().unwrap();
        let expected = make(dir.path(), config.clone());
        let mut model = Llama::from_dir(dir.path().join("base"), None, &Device::flex()).unwrap();
        model.load_adapter(dir.path().join("adapter"), "x", false).unwrap();
        let weights = model.named_weights();
        model.merge_adapters(&["x"], true).unwrap();
        close(&logits(&model), &expected);
        model.unmerge_adapters();
        assert_eq!(model.named_weights(), weights, "{config:?}");
        close(&logits(&model), &expected);
        model.merge_and_unload(true).unwrap();
        close(&logits(&model), &expected);
        assert_eq!(model.config().tie_word_embeddings, !untied, "{config:?}");
    }
    // The head's own adapter beside trained rows: for good only, and a refusal changes nothing.
    let dir = tempfile::tempdir().unwrap();
    let expected = make(dir.path(), LoraConfig { trainable_token_indices: rows, ..lora(&["lm_head"]) });
    let mut model = Llama::from_dir(dir.path().join("base"), None, &Device::flex()).unwrap();
    model.load_adapter(dir.path().join("adapter"), "x", false).unwrap();
    let error = model.merge_adapters(&["x"], true).unwrap_err().to_string();
    assert!(error.contains("untie"), "{error}");
    close(&logits(&model), &expected);
    model.merge_and_unload(true).unwrap();
    close(&logits(&model), &expected);
}

#[test]
fn a_merge_that_fails_leaves_the_pair_tied() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), lora(&["lm_head"]));
    let mut model = Llama::from_dir(dir.path().join("base"), None, &Device::flex()).unwrap();
    model.load_adapter(dir.path().join("adapter"), "x", false).unwrap();
    for (_, mut param) in model.adapter_params_mut("x").unwrap() {
        let shape = param.view().shape();
        param.set(TensorData::new(vec![f32::NAN; shape.iter().product()], shape));
    }
    let error = model.merge_and_unload(true).unwrap_err().to_string();
    assert!(error.contains("lm_head"), "{error}");
    assert!(model.config().tie_word_embeddings && model.adapter_names() == ["x"]);
}

#[test]
fn trained_rows_keep_the_pair_tied() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Some(peft_burn::TokenIndices::List(vec![5, 20]));
    let expected = make(dir.path(), LoraConfig { trainable_token_indices: tokens, ..lora(&["q_proj"]) });
    let [base, adapter, out] = ["base", "adapter", "out"].map(|name| dir.path().join(name));
    assert!(!merge_into(&base, &adapter, &out, &Device::flex()).unwrap().untied);
    close(&logits(&Llama::from_dir(&out, None, &Device::flex()).unwrap()), &expected);
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), LoraConfig { lora_bias: true, ..lora(&["q_proj"]) });
    let [base, adapter, out] = ["base", "adapter", "out"].map(|name| dir.path().join(name));
    let error = merge_into(&base, &adapter, &out, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.self_attn.q_proj.bias") && error.contains("lora_bias = false"), "{error}");
    assert!(!out.exists());
    let error = merge_into(&base, &adapter, &base, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("exists already and is not empty"), "{error}");
}
