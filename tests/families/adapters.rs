//! Adapters on every family: forward, gradients, merges, thirty steps of training.

use std::path::PathBuf;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use peft_burn::{AdapterFiles, PeftModel};
use peft_burn_workspace::{as_labels, assert_close, loss};
use rstest::rstest;

use super::support::Case;

#[rstest]
fn forward_gradients_and_merge(
    #[files("tests/fixtures/families/*/config.json")] config: PathBuf,
    #[values("lora", "second")] label: &str,
    #[values(false, true)] checkpointing: bool,
) {
    let case = Case::of(&config);
    let mut model = case.model();
    model.load_adapter(case.folder.join(label), "default", true).unwrap();
    let expected = |key: &str| &case.expected[&format!("{label}.{key}")];
    assert_close("logits", &model.forward(&case.input()).into_data(), expected("logits"), 1e-5);

    let mut training = model.clone().train();
    training.set_gradient_checkpointing(checkpointing);
    let loss = loss(&training, &case.ids, &case.labels);
    assert_close("loss", &loss.to_data(), expected("loss"), 1e-5);
    let grads = GradientsParams::from_grads(loss.backward(), &training);
    let params = training.adapter_params("default").unwrap();
    let prefix = format!("{label}.grad.");
    let golden = case.expected.iter().filter_map(|(key, data)| Some((key.strip_prefix(&prefix)?, data)));
    let golden: std::collections::BTreeMap<_, _> = golden.collect();
    assert!(!golden.is_empty() && golden.len() == params.len(), "{} of {}", golden.len(), params.len());
    for (key, param) in &params {
        let found = param.grad(&grads).unwrap_or_else(|| panic!("{key} has no gradient"));
        let expected = golden.get(key.as_str()).unwrap_or_else(|| panic!("{key} is not PEFT's"));
        assert_close(&format!("gradient of {key}"), &found, expected, 1e-4);
    }

    if let Some(merged) = case.expected.get(&format!("{label}.merged")) {
        model.merge_and_unload(true).unwrap();
        assert_close("merged logits", &model.forward(&case.input()).into_data(), merged, 1e-5);
    }
}

#[rstest]
fn thirty_steps(
    #[files("tests/fixtures/families/*/config.json")] config: PathBuf,
    #[values("lora", "second")] label: &str,
) {
    let case = Case::of(&config);
    let mut model = case.model();
    model.load_adapter(case.folder.join(label), "default", true).unwrap();
    let mut model = model.train();
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.01).with_epsilon(1e-8).init();
    for (i, expected) in case.expected[&format!("{label}.losses")].iter::<f64>().enumerate() {
        let loss = loss(&model, &case.ids, &as_labels(&case.ids));
        let value = loss.clone().into_scalar::<f64>();
        assert!((value - expected).abs() <= 1e-3, "loss of step {} is {value}, PEFT's {expected}", i + 1);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-2, model, grads);
    }
    // Of each tensor its sum, and that of its squares.
    let mut params = model.adapter_params("default").unwrap();
    params.sort_by(|(a, _), (b, _)| a.cmp(b));
    let ends: Vec<f64> = case.expected[&format!("{label}.end")].iter::<f64>().collect();
    assert_eq!(2 * params.len(), ends.len());
    for ((key, param), end) in params.iter().zip(ends.chunks(2)) {
        let values: Vec<f64> = param.to_data().iter::<f64>().collect();
        let squares = values.iter().map(|v| v * v).sum::<f64>();
        // A sum of n values that are off by 1e-3 of their size each.
        let off = 1e-3 * (values.len() as f64 * end[1]).sqrt();
        assert!((values.iter().sum::<f64>() - end[0]).abs() <= off, "the sum of {key}");
        assert!((squares - end[1]).abs() <= 2e-3 * end[1], "{key}: {squares}, PEFT's {}", end[1]);
    }
}
