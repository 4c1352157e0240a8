//! Quantised bases against PEFT over bitsandbytes, from the files that `tests/python/quantised_base.py` writes.

use std::path::PathBuf;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, FloatDType};
use llama_burn::{BaseQuantization, Format, Llama, LoadOptions, Quantize, merge_into_packed, quantize_into};
use peft_burn::{AdapterFiles, InitLoraWeights, LoHaConfig, LoraConfig, PeftModel, TargetModules};
use peft_burn_workspace::{Inputs, assert_close, base, device, golden, json, loss, orthogonal, tensors};
use rstest::rstest;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from("tests/fixtures/quantised").join(name)
}

fn how(key: &str) -> BaseQuantization {
    let format = match key {
        "fp4" => Format::Fp4,
        "int8" => Format::Int8,
        _ => Format::Nf4,
    };
    BaseQuantization { double_quantization: key.ends_with("_double"), ..BaseQuantization::new(format) }
}

/// The golden base, quantised while it is loaded.
fn quantised(key: &str) -> Llama {
    let options = LoadOptions::from(Some(FloatDType::F32)).with_quantize(Quantize::To(how(key)));
    Llama::load(golden("base"), &options, &device()).unwrap().0
}

/// The base with the codes of bitsandbytes: its nested scales are a step off ours here and there.
fn theirs(key: &str) -> Llama {
    match key {
        "nf4_double" => Llama::from_dir(fixture(key), Some(FloatDType::F32), &device()).unwrap(),
        _ => quantised(key),
    }
}

fn with_adapter(key: &str, method: &str) -> Llama {
    let mut model = theirs(key);
    model.load_adapter(golden(method).join("adapter"), "default", true).unwrap();
    model
}

#[rstest]
fn logits_losses_and_gradients(
    #[values(
        ("nf4_double", "lora"), ("nf4_double", "dora"), ("nf4_double", "vera"), ("nf4_double", "adalora"),
        ("nf4_double", "ia3"), ("nf4", "lora"), ("fp4", "lora")
    )]
    case: (&str, &str),
) {
    let (key, method) = case;
    let (inputs, expected) = (Inputs::load(), tensors(&fixture(&format!("{key}.safetensors"))));
    let model = theirs(key);
    assert_eq!(model.packed_weights().len(), 14);
    assert_close("logits of the base", &model.forward(&inputs.input()).into_data(), &expected["logits"], 1e-5);
    let model = with_adapter(key, method);
    let found = model.forward(&inputs.input()).into_data();
    assert_close("logits", &found, &expected[&format!("{method}.logits")], 1e-5);
    let training = model.train();
    let loss = loss(&training, &inputs.ids, &inputs.labels) + orthogonal(&training);
    assert_close("loss", &loss.to_data(), &expected[&format!("{method}.loss")], 1e-5);
    let grads = GradientsParams::from_grads(loss.backward(), &training);
    let params = training.adapter_params("default").unwrap();
    assert_eq!(grads.len(), params.len(), "codes have no gradient");
    for (name, param) in params {
        let expected = &expected[&format!("{method}.grad.{name}")];
        let found = param.grad(&grads).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert_close(&format!("gradient of {name}"), &found, expected, 1e-4);
    }
}

#[rstest]
fn twelve_steps(#[values("lora", "dora", "vera", "ia3")] method: &str) {
    let (inputs, record) = (Inputs::load(), json(&fixture("record.json")));
    let mut model = with_adapter("nf4_double", method).train();
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).with_epsilon(1e-8).init();
    for expected in record["losses"][method].as_array().unwrap() {
        let loss = loss(&model, &inputs.ids, &inputs.labels);
        let (found, expected) = (loss.clone().into_scalar::<f64>(), expected.as_f64().unwrap());
        assert!((found - expected).abs() <= 2e-3, "{method}: {found}, PEFT's {expected}");
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-2, model, grads);
    }
}

#[rstest]
fn directories_of_bitsandbytes_are_read_as_they_are(#[values("nf4_double", "fp4", "int8")] key: &str) {
    let inputs = Inputs::load();
    let stored = Llama::from_dir(fixture(key), Some(FloatDType::F32), &device()).unwrap();
    assert_eq!(stored.packed_weights().len(), 14);
    let logits = stored.forward(&inputs.input()).into_data();
    let own = quantised(key);
    // Nested scales are a step off here and there; int8 weights were stored beside others in f16.
    let tolerance = match key {
        "fp4" => 1e-6,
        _ => 2e-3,
    };
    assert_close("logits", &logits, &own.forward(&inputs.input()).into_data(), tolerance);
    let dense = LoadOptions::from(Some(FloatDType::F32)).with_quantize(Quantize::Dense);
    let (dense, _) = Llama::load(fixture(key), &dense, &device()).unwrap();
    assert!(dense.packed_weights().is_empty());
    assert_close("decoded", &dense.forward(&inputs.input()).into_data(), &logits, 1e-5);
}

#[rstest]
fn what_is_written_is_read_and_is_what_bitsandbytes_writes(#[values("nf4_double", "fp4", "int8")] key: &str) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let report = quantize_into(golden("base"), &out, &how(key), None, &Device::flex()).unwrap();
    assert_eq!(report.packed_modules, 14);
    let (ours, theirs) = (tensors(&out.join("model.safetensors")), tensors(&fixture(key).join("model.safetensors")));
    for (name, theirs) in &theirs {
        let ours = ours.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        // Nested codes may be a step apart, and what describes a weight is spelled by each program.
        let exact = !name.contains(".quant_state.") && !name.contains("absmax");
        if exact && theirs.dtype() == ours.dtype() {
            assert_eq!(ours, theirs, "{name}");
        }
    }
    assert_eq!(ours.len(), theirs.len());
    let again = Llama::from_dir(&out, None, &device()).unwrap();
    let inputs = Inputs::load();
    let found = again.forward(&inputs.input()).into_data();
    assert_close("logits", &found, &quantised(key).forward(&inputs.input()).into_data(), 1e-6);
}

#[test]
fn an_adapter_merges_into_dense_weights_and_comes_off_to_the_bit() {
    let inputs = Inputs::load();
    for method in ["lora", "dora", "vera", "adalora", "ia3"] {
        let mut model = with_adapter("nf4_double", method);
        let before = model.forward(&inputs.input()).into_data();
        model.merge_adapters(&["default"], true).unwrap();
        assert_close(method, &model.forward(&inputs.input()).into_data(), &before, 1e-5);
        model.unmerge_adapters();
        assert_eq!(model.packed_weights().len(), 14);
        assert_eq!(model.forward(&inputs.input()).into_data(), before);
    }
}

#[test]
fn loha_computes_on_a_quantised_base_what_it_does_on_the_decoded_one() {
    let inputs = Inputs::load();
    let config = LoHaConfig { init_weights: false, target_modules: TargetModules::AllLinear, ..LoHaConfig::default() };
    let mut packed = quantised("nf4_double");
    packed.add_adapter("default", &config.clone().into(), 3).unwrap();
    let dir = tempfile::tempdir().unwrap();
    quantised("nf4_double").save(dir.path(), None).unwrap();
    let mut dense = Llama::from_dir(dir.path(), None, &device()).unwrap();
    assert!(dense.packed_weights().is_empty());
    dense.add_adapter("default", &config.into(), 3).unwrap();
    let of = |model: Llama| {
        let model = model.train();
        let loss = loss(&model, &inputs.ids, &inputs.labels);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        let params = model.adapter_params("default").unwrap();
        let all: Vec<_> = params.iter().map(|(name, param)| (name.clone(), param.grad(&grads).unwrap())).collect();
        (loss.into_data(), all)
    };
    let ((found, found_grads), (expected, grads)) = (of(packed), of(dense));
    assert_close("loss", &found, &expected, 1e-5);
    for ((name, found), (_, expected)) in found_grads.iter().zip(&grads) {
        assert_close(name, found, expected, 1e-4);
    }
}

#[test]
fn what_would_change_packed_weights_is_refused_by_name() {
    let mut model = quantised("nf4");
    for (init_lora_weights, name) in [(InitLoraWeights::Pissa, "pissa"), (InitLoraWeights::Olora, "olora")] {
        let config = LoraConfig { r: 2, init_lora_weights, ..LoraConfig::default() };
        let error = model.add_adapter("x", &config.into(), 1).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("quantised base"), "{error}");
    }
    let error = model.set_base_trainable(true).unwrap_err().to_string();
    assert!(error.contains("q_proj"), "{error}");
}

#[test]
fn an_adapter_says_which_base_it_was_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = with_adapter("nf4_double", "lora");
    model.save_adapter("default", dir.path()).unwrap();
    assert!(model.load_adapter(dir.path(), "again", false).unwrap().is_empty());
    for (mut other, present) in [(base("base"), "not quantised"), (quantised("fp4"), "fp4")] {
        let said = other.load_adapter(dir.path(), "default", false).unwrap().join("\n");
        assert!(said.contains("nf4 (double)") && said.contains(present), "{said}");
    }
}

#[test]
fn a_merge_into_packed_weights_says_what_is_left_of_the_update() {
    let dir = tempfile::tempdir().unwrap();
    let nf4 = how("nf4_double");
    let merge = |out: &str, adapter: &std::path::Path| {
        let out = dir.path().join(out);
        let report = merge_into_packed(golden("base"), adapter, &out, &nf4, &Device::flex()).unwrap();
        (Llama::from_dir(out, None, &device()).unwrap(), report)
    };
    let (model, report) = merge("large", &golden("lora").join("adapter"));
    assert_eq!((model.packed_weights().len(), report.survives.len()), (14, report.merge.merged_modules));
    assert!(report.survives.values().all(|share| (0.5..1.5).contains(share)), "{:?}", report.survives);
}
