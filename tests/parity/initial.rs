//! Adapters as they start.

use peft_burn::{AdaLoraConfig, AdaptableModel, AdapterFiles, LayerRef, PeftConfig, PeftModel};
use peft_burn_workspace::{Inputs, assert_close, base, golden, tensors};
use rstest::rstest;

#[rstest]
fn the_residual_and_the_update_are_pefts(#[values("pissa", "olora")] init: &str) {
    let folder = golden(&format!("x_init_{init}"));
    let oracle = tensors(&folder.join("oracle.safetensors"));
    let inputs = Inputs::load();
    let untouched = base("base");
    let path = "model.layers.0.self_attn.q_proj";

    // From PEFT's own files, the residual is made anew.
    let mut loaded = base("base");
    loaded.load_adapter(folder.join("adapter"), "default", false).unwrap();
    assert_close("logits", &loaded.forward(&inputs.input()).into_data(), &oracle["logits"], 1e-5);
    // From our own initialisation.
    let mut fresh = base("base");
    fresh.add_adapter("default", loaded.adapter_config("default").unwrap(), 1).unwrap();
    let before = untouched.forward(&inputs.input()).into_data();
    assert_close("logits at the start", &fresh.forward(&inputs.input()).into_data(), &before, 1e-5);

    for model in [&loaded, &fresh] {
        let layers = model.layers();
        let (_, LayerRef::Linear(linear)) = layers.iter().find(|(p, _)| p == path).unwrap() else {
            panic!("a linear layer")
        };
        let residual = linear.adapters().get("default").unwrap().weight.as_ref().unwrap().val();
        assert_close("residual", &residual.clone().into_data(), &oracle["residual_weight"], 1e-5);
        let (merged, _) = linear.merged_values(&["default".into()]).unwrap();
        assert_close("update", &(merged.clone() - residual).into_data(), &oracle["delta"], 1e-5);
        assert_close("sum", &merged.into_data(), &linear.base().weight.val().dense().into_data(), 1e-5);
    }
}

/// Until something is learned, an adapter of our own making changes nothing: not a bit, DoRA's norms apart.
#[rstest]
fn a_new_adapter_is_the_base(
    #[values("lora", "rslora", "dora", "x_dora_emb", "x_lora_emb", "vera", "adalora", "ia3", "x_ia3_all")] name: &str,
    #[values("base", "base_bias")] which: &str,
) {
    let input = Inputs::load().input();
    let mut model = base(which);
    let before = model.forward(&input).into_data();
    let (config, _) = PeftConfig::from_dir(golden(name).join("adapter")).unwrap();
    // A file's configuration says that training is over.
    let config = match config {
        PeftConfig::AdaLora(config) => AdaLoraConfig { rank_pattern: None, ..config }.into(),
        other => other,
    };
    model.add_adapter("default", &config, 3).unwrap();
    let tolerance = if name.contains("dora") { 1e-6 } else { 0.0 };
    assert_close(name, &model.forward(&input).into_data(), &before, tolerance);
    assert!(model.trainable_parameters().trainable > 0);
}
