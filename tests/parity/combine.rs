//! Adapters of several methods on one model: switching, activating several, merging and unmerging.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::TensorData;
use llama_burn::Llama;
use peft_burn::methods::Method;
use peft_burn::{
    AdaptableModel, AdapterFiles, Bias, Ia3Config, LayerRef, ModuleNames, PeftConfig, PeftModel, TargetModules,
    VeraConfig,
};
use peft_burn_workspace::{Inputs, adapted, assert_close, base, golden, relative_error, tensors};
use rstest::rstest;

const METHODS: [&str; 6] = ["lora", "dora", "vera", "adalora", "ia3", "loha"];

/// The goldens' trained adapters by name, and a second DoRA adapter.
fn all() -> Llama {
    let mut model = base("base");
    for name in METHODS {
        model.load_adapter(golden(name).join("adapter"), name, false).unwrap();
    }
    model.load_adapter(golden("dora/adapter_final"), "dora2", false).unwrap();
    model
}

fn logits(model: &Llama) -> TensorData {
    model.forward(&Inputs::load().input()).into_data()
}

fn weights(model: &Llama) -> BTreeMap<String, TensorData> {
    model.named_weights().into_iter().collect()
}

#[test]
fn each_of_many_adapters_answers_as_if_it_were_alone() {
    let mut model = all();
    for name in METHODS {
        model.set_adapter(&[name]).unwrap();
        let expected = tensors(&golden(name).join("forward.safetensors"));
        assert_close(name, &logits(&model), &expected["logits"], 1e-5);
    }
    model.delete_adapter("dora").unwrap();
    model.set_adapter(&["dora2"]).unwrap();
    let expected = tensors(&golden("dora/final_forward.safetensors"));
    assert_close("dora2", &logits(&model), &expected["logits"], 1e-5);
}

/// `two_active.safetensors`: PEFT 0.21.2's logits with `adapter_final` and `adapter` of a golden both active.
#[rstest]
fn two_active_adapters_of_one_method_are_what_peft_makes_of_them(
    #[values("lora", "dora", "vera", "adalora", "ia3")] name: &str,
) {
    let expected = tensors(&golden("../two_active.safetensors"));
    let mut model = base("base");
    model.load_adapter(golden(name).join("adapter_final"), "a", false).unwrap();
    model.load_adapter(golden(name).join("adapter"), "b", false).unwrap();
    model.set_adapter(&["a", "b"]).unwrap();
    assert_close(name, &logits(&model), &expected[name], 1e-5);
    model.merge_adapters(&["a", "b"], true).unwrap();
    assert_close("merged", &logits(&model), &expected[name], 1e-5);
}

#[rstest]
#[case(&["lora", "ia3"])]
#[case(&["ia3", "lora"])]
#[case(&["ia3", "dora"])]
#[case(&["dora", "ia3", "vera"])]
#[case(&["dora", "dora2"])]
#[case(&["dora2", "dora"])]
#[case(&["adalora", "dora", "lora"])]
#[case(&["loha", "ia3", "lora"])]
#[case(&["vera", "adalora", "ia3", "dora", "lora", "loha", "dora2"])]
fn any_active_set_is_its_merge_and_unmerging_gives_the_base_to_the_bit(#[case] names: &[&str]) {
    let mut model = all();
    let original = weights(&model);
    model.set_adapter(names).unwrap();
    let active = logits(&model);
    assert!(relative_error(&active, &logits(&base("base"))) > 1e-2, "the adapters do something");
    model.merge_adapters(names, true).unwrap();
    assert_close("merged", &logits(&model), &active, 2e-5);
    model.unmerge_adapters();
    assert_eq!(weights(&model), original);
    assert_eq!(logits(&model), active);
    // With the first ones merged, the others act on top of them as before.
    for merged in 1..names.len() {
        model.merge_adapters(&names[..merged], false).unwrap();
        assert_close("partly merged", &logits(&model), &active, 2e-5);
        model.unmerge_adapters();
    }
    model.unload();
    assert_eq!(weights(&model), original);
}

#[test]
fn the_order_of_ia3_matters_and_is_kept() {
    let mut model = all();
    model.set_adapter(&["lora", "ia3"]).unwrap();
    let first = logits(&model);
    model.set_adapter(&["ia3", "lora"]).unwrap();
    assert!(relative_error(&logits(&model), &first) > 1e-4);
}

/// PEFT gives a second IA3 adapter the role that the first has on a layer, and a zero entry loses its row on unmerge.
#[test]
fn each_ia3_adapter_keeps_its_own_feedforward_modules_and_unmerges_losslessly() {
    let config = Ia3Config {
        target_modules: TargetModules::list(["down_proj"]),
        feedforward_modules: Some(ModuleNames::list(Vec::<String>::new())),
        init_ia3_weights: false,
        ..Ia3Config::default()
    };
    let mut alone = base("base");
    alone.add_adapter("out", &config.clone().into(), 3).unwrap();
    let mut model = base("base");
    model.load_adapter(golden("ia3/adapter"), "in", false).unwrap();
    model.add_adapter("out", &config.into(), 3).unwrap();
    assert_eq!(logits(&model), logits(&alone));
    let shapes: Vec<_> = model.adapter_params("out").unwrap().into_iter().map(|(_, p)| p.shape()).collect();
    assert_eq!(shapes, [[64, 1], [64, 1]]);

    for (_, mut param) in model.adapter_params_mut("in").unwrap() {
        let zeros = vec![0.0_f32; param.view().num_elements()];
        let shape = param.view().shape();
        param.set(TensorData::new(zeros, shape));
    }
    let original = weights(&model);
    model.merge_adapters(&["in"], true).unwrap();
    assert!(weights(&model)["model.layers.0.self_attn.k_proj.weight"].iter::<f32>().all(|v| v == 0.0));
    model.unmerge_adapters();
    assert_eq!(weights(&model), original);
}

/// VeRA's pair of each adapter that has one.
pub fn pairs(model: &Llama) -> BTreeMap<String, [TensorData; 2]> {
    let mut found = BTreeMap::new();
    for (_, layer) in model.layers() {
        let LayerRef::Linear(linear) = layer else { continue };
        for (name, adapter) in linear.adapters().iter() {
            if let Some(Method::Vera(vera)) = &adapter.method {
                found.insert(name.to_owned(), vera.projection().tensors().map(|t| t.into_data()));
            }
        }
    }
    found
}

#[test]
fn vera_draws_pefts_projection_to_the_bit() {
    let oracle = tensors(&golden("x_vera_noproj/projection_oracle.safetensors"));
    let [a, b] = pairs(&adapted("x_vera_noproj", "adapter")).remove("default").unwrap();
    assert_eq!(a.as_bytes(), oracle["vera_A"].as_bytes());
    assert_eq!(b.as_bytes(), oracle["vera_B"].as_bytes());
}

/// PEFT refuses a second VeRA adapter with another key or a larger r, and crashes with a smaller one.
#[test]
fn vera_adapters_with_other_keys_and_ranks_live_side_by_side() {
    let config = |key, r| VeraConfig {
        projection_prng_key: key,
        r,
        init_weights: false,
        save_projection: false,
        target_modules: TargetModules::list(["q_proj", "down_proj"]),
        ..VeraConfig::default()
    };
    let mut model = all();
    for (name, key, r) in [("small", 42, 4), ("large", 42, 64), ("other", 7, 16), ("twin", 42, 4)] {
        let mut alone = base("base");
        alone.add_adapter(name, &config(key, r).into(), 5).unwrap();
        model.add_adapter(name, &config(key, r).into(), 5).unwrap();
        assert_eq!(logits(&model), logits(&alone), "{name}");
    }
    let pairs = pairs(&model);
    assert_eq!(pairs["small"], pairs["twin"]);
    assert_ne!(pairs["small"][0].shape(), pairs["large"][0].shape());
    model.set_adapter(&["vera"]).unwrap();
    let expected = tensors(&golden("vera/forward.safetensors"));
    assert_close("vera", &logits(&model), &expected["logits"], 1e-5);

    let moved = model.clone().to_device(&peft_burn_workspace::device());
    assert_eq!(logits(&moved), logits(&model));
}

#[rstest]
fn vera_files_hold_the_projection_if_asked_to(#[values(true, false)] save_projection: bool) {
    let mut model = adapted("vera", "adapter");
    let PeftConfig::Vera(mut config) = model.adapter_config("default").unwrap().clone() else {
        panic!("a VeRA golden")
    };
    config.save_projection = save_projection;
    let expected = logits(&model);
    let (_, values) = model.adapter_contents("default").unwrap();
    model.add_adapter("copy", &config.into(), 0).unwrap();
    for (key, mut param) in model.adapter_params_mut("copy").unwrap() {
        param.set(values[&key].clone());
    }
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter("copy", dir.path()).unwrap();
    let file = tensors(&dir.path().join("adapter_model.safetensors"));
    assert_eq!(file.contains_key("base_model.vera_A"), save_projection);
    assert_eq!(file.contains_key("base_model.vera_B"), save_projection);
    let mut reloaded = base("base");
    reloaded.load_adapter(dir.path(), "default", false).unwrap();
    assert_eq!(logits(&reloaded), expected);
}

#[test]
fn a_projection_of_other_values_is_used_and_stays_with_its_adapter() {
    let dir = tempfile::tempdir().unwrap();
    adapted("vera", "adapter").save_adapter("default", dir.path()).unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    let mut file = tensors(&path);
    let a = &file["base_model.vera_A"];
    let changed: Vec<f32> = a.iter::<f32>().map(|v| v * 2.0).collect();
    let changed = TensorData::new(changed, a.shape().clone());
    file.insert("base_model.vera_A".into(), changed.clone());
    peft_burn::tensor_file::write_tensors(&path, &file, &[]).unwrap();

    let mut model = adapted("vera", "adapter");
    let before = logits(&model);
    model.load_adapter(dir.path(), "changed", false).unwrap();
    assert!(relative_error(&logits(&model), &before) > 1e-3);
    assert_eq!(pairs(&model)["changed"][0], changed);
    model.set_adapter(&["default"]).unwrap();
    assert_eq!(logits(&model), before);
    let again = tempfile::tempdir().unwrap();
    model.save_adapter("changed", again.path()).unwrap();
    assert_eq!(tensors(&again.path().join("adapter_model.safetensors")), file);
}

/// The lines are PEFT's own.
#[rstest]
#[case("vera", Bias::VeraOnly, "trainable params: 264 || all params: 91,592 || trainable%: 0.2882")]
#[case("vera", Bias::All, "trainable params: 1,160 || all params: 91,592 || trainable%: 1.2665")]
#[case("adalora", Bias::LoraOnly, "trainable params: 1,160 || all params: 92,490 || trainable%: 1.2542")]
#[case("adalora", Bias::All, "trainable params: 2,056 || all params: 92,490 || trainable%: 2.2229")]
fn trained_biases_are_counted_saved_and_loaded(#[case] method: &str, #[case] bias: Bias, #[case] line: &str) {
    let json = serde_json::json!({
        "peft_type": method.to_uppercase(), "target_modules": ["q_proj"], "task_type": "CAUSAL_LM",
    });
    let mut config = PeftConfig::from_map(json.as_object().unwrap().clone()).unwrap();
    match &mut config {
        PeftConfig::Vera(config) => (config.r, config.bias) = (4, bias),
        PeftConfig::AdaLora(config) => (config.init_r, config.target_r, config.bias) = (4, 2, bias),
        _ => panic!("one of the two"),
    }
    let mut model = base("base_bias");
    model.add_adapter("default", &config, 1).unwrap();
    assert_eq!(model.trainable_parameters().to_string(), line);
    for (key, mut param) in model.adapter_params_mut("default").unwrap() {
        let data = param.view().to_data();
        let moved: Vec<f32> = data.iter::<f32>().enumerate().map(|(i, v)| v + 0.01 * (i % 7) as f32).collect();
        param.set(TensorData::new(moved, data.shape().clone()));
        assert!(!key.ends_with("q_proj.bias"), "an adapted layer's bias lies in its base_layer");
    }
    let count = model.adapter_params("default").unwrap().iter().filter(|(k, _)| k.ends_with("bias")).count();
    assert_eq!(count, if bias == Bias::All { 14 } else { 2 });
    let expected = logits(&model);
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter("default", dir.path()).unwrap();
    let mut reloaded = base("base_bias");
    reloaded.load_adapter(dir.path(), "default", false).unwrap();
    assert_eq!(logits(&reloaded), expected);
    reloaded.merge_adapters(&["default"], true).unwrap();
    assert_close("merged", &logits(&reloaded), &expected, 1e-5);
}

#[rstest]
#[case("base", "x_lora_mts", "weight of its own for lm_head")]
#[case("base_bias", "x_lora_biasonly", "bias of its own for model.layers.0.self_attn.q_proj")]
#[case("base", "x_init_pissa", "weight of its own for model.layers.0.self_attn.q_proj")]
fn two_adapters_that_replace_one_tensor_take_turns(#[case] which: &str, #[case] name: &str, #[case] message: &str) {
    let mut model = base(which);
    for copy in ["a", "b"] {
        model.load_adapter(golden(name).join("adapter"), copy, false).unwrap();
    }
    let second = logits(&model);
    for error in [model.set_adapter(&["a", "b"]).unwrap_err(), model.merge_adapters(&["a", "b"], false).unwrap_err()] {
        assert!(error.to_string().contains(message), "{error}");
    }
    assert_eq!(logits(&model), second);
    model.set_adapter(&["a"]).unwrap();
    assert_eq!(logits(&model), second);
}
