//! Files: what is refused, what PEFT's defaults are, and what Hugging Face's libraries make of what we save.

use std::path::{Path, PathBuf};

use llama_burn::{Llama, LlamaConfig, merge_into};
use peft_burn::{AdaLoraConfig, AdapterFiles, Ia3Config, LoraConfig, PeftConfig, PeftModel, VeraConfig};
use peft_burn_workspace::{assert_close, device, fixtures, json, python_with, run_script_with, tensors};
use rstest::rstest;
use serde_json::json;

use super::support::Case;

#[rstest]
fn a_configuration_is_written_as_it_was_read(#[files("tests/fixtures/families/*/config.json")] config: PathBuf) {
    let read = LlamaConfig::from_file(&config).unwrap();
    let text = read.to_hf_json().to_string();
    assert_eq!(LlamaConfig::from_json(&text, Path::new("config.json")).unwrap(), read);
}

/// PEFT 0.21.2's tables (`peft/utils/constants.py`).
#[rstest]
fn default_targets_are_those_of_peft(#[files("tests/fixtures/families/*/config.json")] config: PathBuf) {
    let case = Case::of(&config);
    let model = case.model();
    let model_type = model.config().model_type.clone();
    let adapted = |config: PeftConfig| {
        let mut model = model.clone();
        let named = model.add_adapter("x", &config, 1).map(|_| model.adapted_modules("x").unwrap());
        named.map(|modules| {
            let mut names: Vec<_> = modules.iter().map(|m| m.rsplit('.').next().unwrap().to_owned()).collect();
            names.sort();
            names.dedup();
            names.join(" ")
        })
    };
    let known = ["mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"].contains(&model_type.as_str());
    let refused = format!("target_modules has no default for models of type `{model_type}`");
    let check = |config: PeftConfig, expected: Option<&str>| match (adapted(config), expected) {
        (Ok(found), Some(expected)) => assert_eq!(found, expected, "{model_type}"),
        (Err(error), None) => assert!(error.to_string().contains(&refused), "{error}"),
        (found, expected) => panic!("{model_type}: {found:?}, expected {expected:?}"),
    };
    let usual = known.then_some("q_proj v_proj");
    check(LoraConfig::default().into(), usual);
    check(VeraConfig::default().into(), usual);
    check(
        AdaLoraConfig { total_step: Some(9), ..AdaLoraConfig::default() }.into(),
        usual.filter(|_| model_type != "mistral"),
    );
    let of_mistral = if model_type == "mistral" { "down_proj k_proj v_proj" } else { "down_proj q_proj v_proj" };
    check(Ia3Config::default().into(), known.then_some(of_mistral));
}

#[test]
fn another_family_is_refused_with_those_that_load() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "mamba"}"#).unwrap();
    let error = Llama::from_dir(dir.path(), None, &device()).unwrap_err().to_string();
    assert!(error.contains("model_type \"mamba\""), "{error}");
    for name in
        ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2", "granite"]
    {
        assert!(error.contains(&format!("(model_type \"{name}\")")), "{name} is not in: {error}");
    }
}

#[rstest]
#[case("gemma2", json!({"layer_types": ["full_attention"]}), "layer_types: must be 3 of")]
#[case("gemma2", json!({"hidden_activation": "relu"}), "hidden_activation: is \"relu\"; only \"gelu_pytorch_tanh\"")]
#[case("gemma3_text", json!({"use_bidirectional_attention": true}), "only causal attention is supported")]
#[case("gemma3_text", json!({"rope_parameters": {"rope_theta": 1.0}}), "must have full_attention and sliding_attention")]
#[case("qwen2", json!({"rope_parameters": {"full_attention": {}}}), "is given for each kind of layer")]
#[case("phi3", json!({"resid_pdrop": 0.1}), "resid_pdrop: is 0.1")]
#[case("phi3", json!({"rope_parameters": {"partial_rotary_factor": 1.5}}), "partial_rotary_factor: is 1.5")]
#[case("phi3_longrope", json!({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": "x"}}),
       "rope_parameters.short_factor: must be 5 numbers, one for each pair that turns, but is 1")]
#[case("smollm3", json!({"no_rope_layers": [1, 2, 0, 1]}), "no_rope_layers: must be 4 numbers")]
#[case("smollm3", json!({"layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"]}), "sliding_window: is missing")]
fn what_would_change_the_model_is_refused(#[case] name: &str, #[case] keys: serde_json::Value, #[case] message: &str) {
    let mut config = json(&fixtures().join("families").join(name).join("config.json"));
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    let error = LlamaConfig::from_json(&config.to_string(), Path::new("config.json")).unwrap_err().to_string();
    assert!(error.contains(message), "{message:?} is not in: {error}");
}

/// Our adapters, merged models and saved models of every family, opened by Transformers and PEFT.
#[test]
fn hugging_face_opens_what_we_save() {
    let Some(python) = python_with(&["peft", "torch", "transformers"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (mut jobs, mut ours) = (Vec::new(), Vec::new());
    let mut folders: Vec<_> =
        std::fs::read_dir(fixtures().join("families")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let case = Case::of(&folder.join("config.json"));
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let at = |part: &str| dir.path().join(format!("{name}-{part}"));
        let mut job = |base: &Path, adapter: Option<&Path>, part: &str, logits| {
            let (inputs, out) = (folder.join("case.safetensors"), at(&format!("{part}.safetensors")));
            jobs.push(json!({"base": base, "adapter": adapter, "inputs": inputs, "out": out}));
            ours.push((format!("{name} {part}"), out, logits));
        };
        let mut model = case.model();
        model.save(at("saved"), None).unwrap();
        job(&at("saved"), None, "saved", model.forward(&case.input()).into_data());
        model.load_adapter(folder.join("lora"), "default", false).unwrap();
        model.save_adapter("default", at("adapter")).unwrap();
        let logits = model.forward(&case.input()).into_data();
        job(&folder, Some(&at("adapter")), "adapter", logits.clone());
        merge_into(&folder, at("adapter"), at("merged"), &device()).unwrap();
        job(&at("merged"), None, "merged", logits);
    }
    std::fs::write(dir.path().join("jobs.json"), json!(jobs).to_string()).unwrap();
    run_script_with(&python, "families.py", &["check".as_ref(), dir.path().join("jobs.json").as_os_str()]);
    for (what, out, logits) in ours {
        let theirs = &tensors(&out)["logits"];
        assert_close(&what, &logits, theirs, 1e-5);
    }
}
