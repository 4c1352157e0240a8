//! Serving: batches whose texts use different adapters, adapters replaced in place, and other scales.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::TensorData;
use llama_burn::{Generate, GenerateOptions, Input, Llama, LlamaError};
use peft_burn::{AdapterFiles, BASE, MixedBatch, PeftError, PeftModel};
use peft_burn_workspace::{Inputs, assert_close, base, device, golden, tensors};
use rstest::rstest;

/// A base with the adapters of these goldens.
fn with(which: &str, names: &[&str]) -> Llama {
    let mut model = base(which);
    let different: BTreeSet<_> = names.iter().filter(|name| **name != BASE).collect();
    for name in different {
        model.load_adapter(&golden(name).join("adapter"), name, false).unwrap();
    }
    model
}

/// Adapters of all methods, one with a trained copy of the head and one on the embedding.
fn all() -> Llama {
    with("base", &["lora", "dora", "vera", "adalora", "ia3", "loha", "x_lora_mts", "x_lora_emb", "x_vera_noproj"])
}

fn logits(model: &Llama, rows: &[Vec<u32>]) -> TensorData {
    model.forward(&Input::from_rows(rows, &device())).into_data()
}

/// The logits of one text, `[seq, vocab]`.
fn of_text(logits: &TensorData, text: usize) -> TensorData {
    let [_, seq, vocab] = logits.shape()[..] else { panic!("{:?}", logits.shape()) };
    let values = logits.iter::<f32>().skip(text * seq * vocab).take(seq * vocab);
    TensorData::new(values.collect::<Vec<_>>(), [1, seq, vocab])
}

/// All methods, heads and embeddings of their own, PiSSA's and OLoRA's residuals, trained biases.
#[rstest]
#[case("base", &["dora", BASE, "lora", "x_lora_mts", "ia3", "vera", "loha", "dora", "adalora", BASE, "x_lora_emb", "x_loha_pattern", "x_vera_noproj"])]
#[case("base", &["x_init_pissa", BASE, "x_dora_emb", "x_init_olora", "x_ia3_all", "x_lora_emb", "x_lora_pattern"])]
#[case("base_bias", &["x_lora_biasall", BASE, "x_ia3_bias", "x_lora_biasonly", "x_dora_bias", "x_lora_lorabias"])]
fn a_mixed_batch_is_each_text_alone(#[case] which: &str, #[case] names: &[&str]) {
    let mut model = with(which, names);
    let text = Inputs::load().ids[0].clone();
    let mixed = model.mixed_batch(names).unwrap();
    let rows: Vec<Vec<u32>> = (0..names.len()).map(|i| text.iter().map(|id| (id + i as u32) % 64).collect()).collect();
    let together = logits(&mixed, &rows);
    assert_eq!(mixed.adapters_by_row(), names);

    let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let go_on = |_, _| std::ops::ControlFlow::Continue(());
    let prompts: Vec<Vec<u32>> = rows.iter().enumerate().map(|(i, row)| row[..3 + i % 4].to_vec()).collect();
    let texts = mixed.generate(&prompts, &options, go_on).unwrap();

    for (i, name) in names.iter().enumerate() {
        model.set_adapter(if *name == BASE { &[] } else { std::slice::from_ref(name) }).unwrap();
        let alone = logits(&model, &rows[i..=i]);
        assert_close(name, &of_text(&together, i), &alone, 1e-5);
        let text = model.generate(&prompts[i..=i], &options, go_on).unwrap();
        assert_eq!(texts[i], text[0], "{name}");
    }
}

#[test]
#[should_panic(expected = "2 adapter names for a batch of another size")]
fn a_mixed_batch_of_another_size_is_not_run() {
    let mixed = all().mixed_batch(&["lora", "ia3"]).unwrap();
    let rows: Vec<Vec<u32>> = Inputs::load().ids.iter().cycle().take(3).map(|row| row[..5].to_vec()).collect();
    logits(&mixed, &rows);
}

#[test]
fn a_mixed_batch_of_a_model_in_training_is_for_inference_and_leaves_it_as_it_was() {
    let mut model = base("base");
    for name in ["lora", "ia3"] {
        model.load_adapter(&golden(name).join("adapter"), name, true).unwrap();
    }
    let model = model.train();
    let before = model.trainable_parameters();
    let mixed = model.mixed_batch(&["lora", "ia3"]).unwrap();
    let rows = Inputs::load().ids[..2].to_vec();
    assert!(!mixed.forward(&Input::from_rows(&rows, &device())).is_autodiff());
    assert_eq!(mixed.trainable_parameters().trainable, 0);
    assert_eq!(model.trainable_parameters(), before);
    assert_eq!(model.active_adapters(), ["ia3"]);
    assert!(model.adapters_by_row().is_empty());
    // Choosing adapters ends it.
    let mut alone = mixed.clone();
    alone.set_adapter(&["lora"]).unwrap();
    let expected = tensors(&golden("lora/forward.safetensors"));
    assert_close("lora again", &logits(&alone, &Inputs::load().ids), &expected["logits"], 1e-5);
}

#[test]
fn what_cannot_be_mixed_is_an_error() {
    let mut model = all();
    let message = |model: &Llama, names: &[&str]| model.mixed_batch(names).unwrap_err().to_string();
    assert!(message(&model, &[]).contains(BASE));
    let unknown = message(&model, &["lora", "nobody", "none"]);
    assert!(unknown.contains("nobody") && unknown.contains("none") && unknown.contains("x_lora_mts"), "{unknown}");
    let mixed = model.mixed_batch(&["lora", "ia3"]).unwrap();
    let go_on = |_, _| std::ops::ControlFlow::Continue(());
    let error = mixed.generate(&[vec![1, 2, 3]], &GenerateOptions::default(), go_on).unwrap_err();
    assert!(matches!(error, LlamaError::MixedBatch { names: 2, prompts: 1 }), "{error}");

    model.load_adapter(&golden("x_lora_tokens/adapter"), "rows", false).unwrap();
    assert!(message(&model, &["lora", "rows"]).contains("trainable_token_indices"));
    model.disable_adapters().unwrap();
    assert!(message(&model, &["lora"]).contains("disabled"));
    model.enable_adapters().unwrap();
    model.merge_adapters(&["lora"], true).unwrap();
    assert!(message(&model, &["lora"]).contains("unmerge"));
}

/// PEFT swaps LoRA alone, and takes the new adapter's scaling to be the old one's.
#[rstest]
#[case("lora", "lora")]
#[case("lora", "x_lora_pattern")]
#[case("x_lora_pattern", "dora")]
#[case("dora", "rslora")]
#[case("vera", "x_vera_mlp")]
#[case("ia3", "vera")]
#[case("adalora", "ia3")]
#[case("ia3", "adalora")]
#[case("x_lora_mts", "lora")]
#[case("loha", "x_loha_pattern")]
#[case("lora", "loha")]
#[case("loha", "adalora")]
fn a_swapped_adapter_is_a_freshly_loaded_one(#[case] old: &str, #[case] new: &str) {
    let inputs = Inputs::load();
    let folder = golden(new).join("adapter_final");
    let folder = if folder.exists() { folder } else { golden(new).join("adapter") };
    let mut fresh = base("base");
    fresh.load_adapter(&folder, "a", false).unwrap();

    let mut model = base("base");
    model.load_adapter(&golden(old).join("adapter"), "a", false).unwrap();
    model.load_adapter(&golden("lora/adapter"), "other", false).unwrap();
    model.set_adapter(&["a"]).unwrap();
    model.hotswap_adapter(&folder, "a").unwrap();
    assert_eq!(
        (model.active_adapters(), model.adapter_names()),
        (&["a".to_owned()][..], vec!["a".into(), "other".into()])
    );
    assert_eq!(logits(&model, &inputs.ids), logits(&fresh, &inputs.ids));
    assert_eq!(model.adapter_config("a").unwrap(), fresh.adapter_config("a").unwrap());
    assert_eq!(model.trainable_parameters().trainable, 0);
}

#[test]
fn a_swap_that_fails_leaves_the_old_adapter() {
    let inputs = Inputs::load();
    let mut model = base("base");
    model.load_adapter(&golden("dora/adapter"), "a", true).unwrap();
    let before = logits(&model, &inputs.ids);
    let nowhere = golden("nowhere");
    assert!(model.hotswap_adapter(&nowhere, "a").is_err());
    assert!(matches!(model.hotswap_adapter(&golden("lora/adapter"), "b"), Err(PeftError::UnknownAdapter { .. })));
    assert_eq!(logits(&model, &inputs.ids), before);
    assert!(model.trains_adapters());
    model.merge_adapters(&["a"], false).unwrap();
    assert!(matches!(model.hotswap_adapter(&golden("lora/adapter"), "a"), Err(PeftError::Merged { .. })));
}

#[rstest]
fn rescaling_changes_the_scaling_alone(
    #[values("lora", "rslora", "dora", "adalora", "loha", "x_dora_emb")] name: &str,
) {
    let inputs = Inputs::load();
    let mut model = base("base");
    model.load_adapter(&golden(name).join("adapter"), "a", false).unwrap();
    let before = logits(&model, &inputs.ids);
    let half = model.rescale_adapter_scale(0.5).unwrap();
    let halved = logits(&half, &inputs.ids);
    assert_ne!(halved, before);
    assert_eq!(logits(&model, &inputs.ids), before, "the model itself is as it was");
    let again = half.rescale_adapter_scale(2.0).unwrap();
    assert_close("twice the half", &logits(&again, &inputs.ids), &before, 1e-6);
    let mut merged = half.clone();
    merged.merge_adapters(&["a"], false).unwrap();
    assert_close("merged", &logits(&merged, &inputs.ids), &halved, 1e-5);
    // DoRA's learned norms remain when the update is gone.
    if !name.contains("dora") {
        let none = model.rescale_adapter_scale(0.0).unwrap();
        assert_close("none", &logits(&none, &inputs.ids), &logits(&base("base"), &inputs.ids), 1e-6);
    }
}

#[test]
fn what_cannot_be_rescaled_is_an_error() {
    let mut model = base("base");
    model.load_adapter(&golden("ia3/adapter"), "a", false).unwrap();
    assert!(model.rescale_adapter_scale(2.0).is_err());
    model.load_adapter(&golden("lora/adapter"), "b", false).unwrap();
    assert!(model.rescale_adapter_scale(f64::NAN).is_err());
    model.merge_adapters(&["b"], false).unwrap();
    assert!(matches!(model.rescale_adapter_scale(2.0), Err(PeftError::Merged { .. })));
}
