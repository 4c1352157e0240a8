//! Every adapter method: forward, gradients, merges, and thirty steps of training.

use std::path::PathBuf;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use peft_burn::PeftModel;
use peft_burn_workspace::{
    Inputs, adapted, as_labels, assert_close, base, golden, json, loss, meta, orthogonal, tensors,
};
use rstest::rstest;

#[rstest]
fn forward_gradients_and_merge(#[files("tests/fixtures/goldens/*/grads.safetensors")] gradients: PathBuf) {
    let name = gradients.parent().and_then(|folder| folder.file_name()?.to_str()).unwrap();
    let inputs = Inputs::load();
    let expected = tensors(&golden(name).join("forward.safetensors"));
    let start = adapted(name, "adapter_init");
    assert_close("logits at the start", &start.forward(&inputs.input()).into_data(), &expected["logits_init"], 1e-5);

    let mut model = adapted(name, "adapter");
    assert_close("logits", &model.forward(&inputs.input()).into_data(), &expected["logits"], 1e-5);
    assert_close("masked logits", &model.forward(&inputs.masked()).into_data(), &expected["logits_masked"], 1e-5);
    assert_eq!(model.trainable_parameters().to_string(), meta(name)["print_trainable_parameters"].as_str().unwrap());

    let training = model.clone().train();
    let loss = loss(&training, &inputs.ids, &inputs.labels) + orthogonal(&training);
    assert_close("loss", &loss.to_data(), &expected["loss"], 1e-5);
    let grads = GradientsParams::from_grads(loss.backward(), &training);
    let golden_grads = tensors(&gradients);
    let params = training.adapter_params("default").unwrap();
    for (key, param) in &params {
        let Some(expected) = golden_grads.get(key) else { continue };
        let found = param.grad(&grads).unwrap_or_else(|| panic!("{key} has no gradient"));
        assert_close(&format!("gradient of {key}"), &found, expected, 1e-4);
    }
    let known: Vec<_> = params.iter().map(|(k, _)| k.clone()).collect();
    let missed: Vec<_> = golden_grads.keys().filter(|k| !known.contains(k)).collect();
    assert!(missed.is_empty(), "gradients without a parameter: {missed:?}");
    assert_eq!(grads.len(), golden_grads.len(), "frozen parameters have no gradient");

    model.disable_adapters().unwrap();
    let untouched = base(meta(name)["base"].as_str().unwrap()).forward(&inputs.input()).into_data();
    assert_close("disabled", &model.forward(&inputs.input()).into_data(), &untouched, 0.0);
    model.enable_adapters().unwrap();

    if meta(name)["merge_error"].is_null() {
        model.merge_adapters(&["default"], true).unwrap();
        assert_close("merged logits", &model.forward(&inputs.input()).into_data(), &expected["logits_merged"], 1e-5);
        let weights: std::collections::BTreeMap<_, _> = model.named_weights().into_iter().collect();
        for (key, value) in tensors(&golden(name).join("merged.safetensors")) {
            assert_close(&format!("merged {key}"), &weights[&key], &value, 1e-5);
        }
        model.unmerge_adapters();
        assert_close("unmerged", &model.forward(&inputs.input()).into_data(), &expected["logits"], 1e-5);
        model.merge_and_unload(true).unwrap();
        assert_close("unloaded", &model.forward(&inputs.input()).into_data(), &expected["logits_merged"], 1e-5);
        assert!(model.adapter_names().is_empty());
    }
}

#[rstest]
fn thirty_steps(#[values("lora", "rslora", "x_lora_mts", "dora", "vera", "ia3", "loha")] name: &str) {
    let inputs = Inputs::load();
    let trajectory = json(&golden(name).join("trajectory.json"));
    let mut model = adapted(name, "adapter_init").train();
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.01).with_epsilon(1e-8).init();
    for (i, step) in trajectory["steps"].as_array().unwrap().iter().enumerate() {
        let ids = &inputs.train[i];
        let loss = loss(&model, ids, &as_labels(ids));
        let value = loss.clone().into_scalar::<f64>();
        let expected = step["loss"].as_f64().unwrap();
        assert!((value - expected).abs() <= 1e-3, "{name}: loss of step {} is {value}, PEFT's {expected}", i + 1);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-2, model, grads);
    }
    let last = tensors(&golden(name).join("adapter_final/adapter_model.safetensors"));
    for (key, param) in model.adapter_params("default").unwrap() {
        assert_close(&format!("final {key}"), &param.to_data(), &last[&key], 1e-3);
    }
    let expected = tensors(&golden(name).join("final_forward.safetensors"));
    assert_close("final logits", &model.valid().forward(&inputs.input()).into_data(), &expected["logits"], 1e-3);
}
