//! Adapters made from adapters: weighted combinations, and conversion to LoRA.

use burn::tensor::{Tensor, TensorData};
use llama_burn::Llama;
use peft_burn::methods::Method;
use peft_burn::{
    AdaptableModel, AdapterFiles, Combination, LayerMut, LayerRef, PeftModel, Weighting, add_weighted_adapter,
    convert_to_lora,
};
use peft_burn_workspace::{Inputs, adapted, assert_close, base, golden, meta, relative_error, tensors};
use rstest::rstest;

fn logits(model: &Llama) -> TensorData {
    model.forward(&Inputs::load().input()).into_data()
}

fn two() -> Llama {
    let mut model = base("base");
    model.load_adapter(golden("x_multi/a"), "a", false).unwrap();
    model.load_adapter(golden("x_multi/b"), "b", false).unwrap();
    model
}

/// B·A of the first layer's q_proj.
fn delta(model: &Llama, name: &str) -> TensorData {
    let layers = model.layers();
    let path = "model.layers.0.self_attn.q_proj";
    let (_, LayerRef::Linear(linear)) = layers.iter().find(|(p, _)| p == path).unwrap() else { panic!("linear") };
    match linear.adapters().get(name).unwrap().method.as_ref().unwrap() {
        Method::Lora(lora) => lora.delta().into_data(),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case("linear", Combination::Linear)]
#[case("cat", Combination::Cat)]
#[case("svd", Combination::Svd)]
#[case("ties", Combination::Ties)]
#[case("ties_svd", Combination::TiesSvd)]
#[case("magnitude_prune", Combination::MagnitudePrune)]
#[case("magnitude_prune_svd", Combination::MagnitudePruneSvd)]
fn combinations_are_pefts(#[case] name: &str, #[case] combination: Combination) {
    let oracle = tensors(&golden("x_multi/oracle.safetensors"));
    let mut model = two();
    let before = logits(&model);
    let mut weighting = Weighting::new(combination);
    weighting.density = Some(0.5);
    weighting.svd_rank = Some(4);
    add_weighted_adapter(&mut model, name, &[("a", 0.7), ("b", 0.4)], weighting).unwrap();
    assert_eq!(logits(&model), before, "the new adapter is not active");
    assert_close("update", &delta(&model, name), &oracle[&format!("delta_q0_{name}")], 1e-5);
    model.set_adapter(&[name]).unwrap();
    assert_close("logits", &logits(&model), &oracle[&format!("logits_{name}")], 1e-5);
    let config = serde_json::Value::Object(model.adapter_config(name).unwrap().to_json());
    let expected = &meta("x_multi")["combos"][name];
    assert_eq!(config["r"], expected["r"]);
    assert_eq!(config["lora_alpha"], expected["lora_alpha"]);
    model.merge_adapters(&[name], true).unwrap();
    assert_close("merged", &logits(&model), &oracle[&format!("logits_{name}")], 1e-5);
}

#[rstest]
fn an_adapter_with_weight_one_is_itself(
    #[values("lora", "rslora", "vera", "adalora", "ia3", "loha", "x_lora_emb")] name: &str,
    #[values(Combination::Linear, Combination::Cat)] combination: Combination,
) {
    if name == "ia3" && combination == Combination::Cat {
        return;
    }
    let mut model = base("base");
    model.load_adapter(golden(name).join("adapter"), "a", false).unwrap();
    add_weighted_adapter(&mut model, "same", &[("a", 1.0)], Weighting::new(combination)).unwrap();
    let expected = logits(&model);
    model.set_adapter(&["same"]).unwrap();
    assert_close(name, &logits(&model), &expected, 1e-5);
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter("same", dir.path()).unwrap();
    let mut loaded = base("base");
    loaded.load_adapter(dir.path(), "same", false).unwrap();
    assert_eq!(logits(&loaded), logits(&model));
}

/// `combined_dora.safetensors`: PEFT 0.21.2's, which leaves out what the adapters have learned of norms.
#[rstest]
fn dora_combinations_are_pefts(
    #[values(("dora", "adapter_final"), ("x_dora_emb", "adapter"))] which: (&str, &str),
    #[values(("linear", Combination::Linear), ("cat", Combination::Cat), ("svd", Combination::Svd), ("ties", Combination::Ties))]
    kind: (&str, Combination),
) {
    let expected = tensors(&golden("../combined_dora.safetensors"));
    let mut model = base("base");
    model.load_adapter(golden(which.0).join("adapter"), "a", false).unwrap();
    model.load_adapter(golden(which.0).join(which.1), "b", false).unwrap();
    let weighting = Weighting { svd_rank: Some(4), density: Some(0.5), ..Weighting::new(kind.1) };
    add_weighted_adapter(&mut model, "new", &[("a", 0.7), ("b", 0.4)], weighting).unwrap();
    model.set_adapter(&["new"]).unwrap();
    let name = if which.0 == "dora" { "dora" } else { "embedding" };
    assert_close(name, &logits(&model), &expected[&format!("{name}_{}", kind.0)], 1e-5);
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter("new", dir.path()).unwrap();
    let saved = tensors(&dir.path().join("adapter_model.safetensors"));
    let norms = &saved["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"];
    assert_close("norms", norms, &expected["m_base"], 1e-6);
}

#[test]
fn methods_with_low_rank_updates_combine_with_each_other() {
    let mut model = base("base");
    for name in ["lora", "vera", "adalora", "loha"] {
        model.load_adapter(golden(name).join("adapter"), name, false).unwrap();
    }
    let parts = [("lora", 1.0), ("vera", 1.0), ("adalora", 1.0), ("loha", 1.0)];
    add_weighted_adapter(&mut model, "all", &parts, Weighting::new(Combination::Cat)).unwrap();
    model.set_adapter(&["lora", "vera", "adalora", "loha"]).unwrap();
    let expected = logits(&model);
    model.set_adapter(&["all"]).unwrap();
    assert_close("the sum", &logits(&model), &expected, 1e-5);
}

#[rstest]
#[case(&[("lora", 1.0), ("ia3", 1.0)], Combination::Linear, "IA3 adapters can be combined with each other only")]
#[case(&[("lora", 1.0), ("dora", 1.0)], Combination::Cat, "DoRA adapters can be combined with each other only")]
#[case(&[("dora", 1.0), ("lora", 1.0)], Combination::Cat, "make LoRA of them first (`peft convert --to lora`)")]
#[case(&[("ia3", 1.0)], Combination::Svd, "IA3 adapters combine by Linear")]
#[case(&[("lora", 1.0), ("vera", 1.0)], Combination::Linear, "ranks differ")]
#[case(&[("lora", 1.0)], Combination::Ties, "needs a density")]
#[case(&[("lora", f64::NAN)], Combination::Linear, "weight of `lora` is NaN")]
#[case(&[("lora", 1.0), ("absent", 1.0)], Combination::Linear, "no adapter is named `absent`")]
#[case(&[("x_lora_mts", 1.0)], Combination::Linear, "weight of its own for lm_head, which would be lost; merge it into the base")]
#[case(&[("x_lora_tokens", 1.0)], Combination::Linear, "rows of its own for model.embed_tokens")]
#[case(&[], Combination::Linear, "none is named")]
fn what_cannot_be_combined_is_refused_before_anything_changes(
    #[case] adapters: &[(&str, f64)],
    #[case] combination: Combination,
    #[case] message: &str,
) {
    let mut model = base("base");
    for name in ["lora", "dora", "vera", "ia3", "x_lora_mts", "x_lora_tokens"] {
        model.load_adapter(golden(name).join("adapter"), name, false).unwrap();
    }
    let (names, before) = (model.adapter_names(), logits(&model));
    let error = add_weighted_adapter(&mut model, "new", adapters, Weighting::new(combination)).unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
    assert_eq!((model.adapter_names(), logits(&model)), (names, before));
    let error = add_weighted_adapter(&mut model, "dora", &[("lora", 1.0)], Weighting::new(Combination::Linear));
    assert!(error.unwrap_err().to_string().contains("already attached"));
}

/// PEFT keeps `lora_bias` and `bias` of the first adapter's configuration, and fills them with zeros and the base's.
#[rstest]
#[case(
    "x_lora_lorabias",
    "by more than a low-rank update (lora_bias), which would be lost; merge it into the base (`peft merge`)"
)]
#[case(
    "x_lora_biasall",
    "trains the base's biases, which have no place in a weighted sum; merge it into the base (`peft merge`)"
)]
fn what_a_combination_would_lose_is_refused_with_the_way_out(#[case] name: &str, #[case] message: &str) {
    let mut model = base("base_bias");
    model.load_adapter(golden(name).join("adapter"), "a", false).unwrap();
    let error = add_weighted_adapter(&mut model, "new", &[("a", 1.0)], Weighting::new(Combination::Linear));
    let error = error.unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

fn converted(name: &str, folder: &str, rank: Option<usize>) -> (TensorData, TensorData, f64) {
    let which = meta(name)["base"].as_str().unwrap().to_owned();
    let mut model = base(&which);
    model.load_adapter(golden(name).join(folder), "a", false).unwrap();
    let expected = logits(&model);
    let conversion = convert_to_lora(&mut model, "a", "new", rank).unwrap();
    model.set_adapter(&["new"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter("new", dir.path()).unwrap();
    let mut loaded = base(&which);
    loaded.load_adapter(dir.path(), "new", false).unwrap();
    let config = loaded.adapter_config("new").unwrap().to_json();
    assert_eq!((config["peft_type"].as_str(), config["use_dora"].as_bool()), (Some("LORA"), Some(false)));
    assert_eq!(logits(&loaded), logits(&model));
    (logits(&model), expected, conversion.largest_error())
}

#[rstest]
#[case("vera", "adapter")]
#[case("x_vera_mlp", "adapter")]
#[case("adalora", "adapter")]
#[case("adalora", "adapter_final")]
#[case("lora", "adapter")]
#[case("x_lora_pattern", "adapter")]
#[case("x_lora_emb", "adapter")]
#[case("x_lora_tokens", "adapter")]
#[case("x_lora_mts", "adapter")]
#[case("x_lora_biasall", "adapter")]
#[case("loha", "adapter")]
#[case("loha", "adapter_final")]
#[case("x_loha_pattern", "adapter")]
fn low_rank_updates_convert_exactly(#[case] name: &str, #[case] folder: &str) {
    let (found, expected, error) = converted(name, folder, None);
    assert_eq!(error, 0.0);
    assert_close(name, &found, &expected, 1e-5);
}

#[rstest]
fn whole_updates_convert_as_well_as_the_rank_allows(
    #[values("dora", "x_dora_bias", "x_dora_emb", "ia3", "x_ia3_all", "vera")] name: &str,
) {
    let (found, expected, error) = converted(name, "adapter", Some(128));
    assert!(error < 1e-5, "{error}");
    assert_close("full rank", &found, &expected, 2e-5);
    let errors = [4, 16, 48].map(|rank| converted(name, "adapter", Some(rank)).2);
    assert!(errors[0] > errors[1] && errors[1] >= errors[2] && errors[0] < 1.0, "{errors:?}");
}

#[test]
fn the_reported_error_is_that_of_the_update() {
    let mut model = base("base");
    model.load_adapter(golden("ia3/adapter"), "a", false).unwrap();
    let conversion = convert_to_lora(&mut model, "a", "new", Some(4)).unwrap();
    let path = "model.layers.0.self_attn.k_proj";
    let weight = |model: &Llama| -> Tensor<2> {
        let data = model.named_weights().into_iter().find(|(n, _)| *n == format!("{path}.weight")).unwrap().1;
        Tensor::from_data(data, &model.device())
    };
    let original = weight(&model);
    let change = |model: &mut Llama, name: &str| {
        model.merge_adapters(&[name], true).unwrap();
        let changed = weight(model) - original.clone();
        model.unmerge_adapters();
        changed
    };
    let (whole, near) = (change(&mut model, "a"), change(&mut model, "new"));
    let error = relative_norm(&whole, &near);
    assert!((error - conversion.errors[path]).abs() < 1e-4, "{error} {}", conversion.errors[path]);
}

fn relative_norm(whole: &Tensor<2>, near: &Tensor<2>) -> f64 {
    let norm = |t: Tensor<2>| t.powi_scalar(2).sum().into_scalar::<f64>().sqrt();
    norm(whole.clone() - near.clone()) / norm(whole.clone())
}

/// New adapters of these methods change nothing, or nothing but by rounding.
#[rstest]
fn what_changes_nothing_converts_to_what_changes_nothing(#[values("lora", "dora", "vera", "ia3", "loha")] name: &str) {
    let mut model = base("base");
    let config = adapted(name, "adapter").adapter_config("default").unwrap().clone();
    model.add_adapter("a", &config, 3).unwrap();
    for rank in [1, 4, 200] {
        let conversion = convert_to_lora(&mut model, "a", "new", Some(rank)).unwrap();
        assert!(conversion.errors.values().all(|error| error.is_finite()), "{:?}", conversion.errors);
        model.set_adapter(&["new"]).unwrap();
        assert_close(name, &logits(&model), &logits(&base("base")), 1e-5);
        model.delete_adapter("new").unwrap();
    }
}

#[test]
fn the_reported_error_does_not_depend_on_how_large_the_change_is() {
    let mut model = base("base");
    model.load_adapter(golden("lora/adapter"), "a", false).unwrap();
    let errors = |model: &Llama| convert_to_lora(&mut model.clone(), "a", "new", Some(1)).unwrap().errors;
    let expected = errors(&model);
    for scale in [1e-25, 1e-10, 1e10, 1e25] {
        // Changes that are far below the weights' precision have no digits left beside them: they are measured alone.
        let zero = |model: &mut Llama| {
            for (_, layer) in model.layers_mut() {
                if let LayerMut::Linear(linear) = layer {
                    let base = linear.base_mut();
                    base.weight.set(base.weight.val().dense().zeros_like());
                }
            }
        };
        let mut scaled = model.rescale_adapter_scale(scale).unwrap();
        zero(&mut scaled);
        for (path, error) in errors(&scaled) {
            assert!(
                (error - expected[&path]).abs() < 1e-3,
                "{path} times {scale}: {error} and not {}",
                expected[&path]
            );
        }
    }
}

#[test]
fn conversions_that_cannot_be_are_errors() {
    let mut model = base("base");
    model.load_adapter(golden("dora/adapter"), "a", false).unwrap();
    let error = convert_to_lora(&mut model, "a", "new", None).unwrap_err().to_string();
    assert!(error.contains("choose a rank") && error.contains("q_proj"), "{error}");
    assert!(convert_to_lora(&mut model, "a", "new", Some(0)).is_err());
    assert_eq!(model.adapter_names(), ["a"]);

    // IA3 scales the biases of k and v and leaves that of down_proj alone, which LoRA's bias can say too.
    let (found, expected, _) = converted("x_ia3_bias", "adapter", Some(128));
    assert_close("with biases", &found, &expected, 2e-5);
    assert!(relative_error(&found, &logits(&base("base_bias"))) > 1e-3);
}
