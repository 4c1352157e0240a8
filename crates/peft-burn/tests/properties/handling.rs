//! Adapters as things one handles: where they stand, and what is refused before anything changes.

use std::path::Path;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, TensorData};
use peft_burn::tensor_file::{TensorFile, write_tensors};
use peft_burn::{
    AdaLoraConfig, AdapterFiles, AdapterStatus, Ia3Config, LayerMut, LoraConfig, ModuleNames, PeftConfig, PeftError,
    PeftModel, TargetModules, TokenIndices, Trained, VeraConfig,
};

use crate::common::Classifier;
use crate::{configs, perturb, scores};

fn lora(targets: &[&str]) -> LoraConfig {
    LoraConfig { r: 2, target_modules: TargetModules::list(targets.to_vec()), ..LoraConfig::default() }
}

/// A LoRA adapter `a` and an IA3 adapter `b`, which is active.
fn two() -> Classifier {
    let mut model = Classifier::random(1, [8, 6], 3, true);
    model.add_adapter("a", &lora(&["q_proj", "embed_tokens"]).into(), 1).unwrap();
    let ia3 = Ia3Config { target_modules: TargetModules::list(["q_proj", "down_proj"]), ..Ia3Config::default() };
    model.add_adapter("b", &ia3.into(), 1).unwrap();
    perturb(&mut model, "a", 2);
    perturb(&mut model, "b", 3);
    model
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_status_follows_every_change() {
    let mut model = two();
    let (base, both) = (Classifier::random(1, [8, 6], 3, true), strings(&["a", "b"]));
    let status = model.model_status();
    assert_eq!(status.base_model_type, "llama");
    assert_eq!(
        status.peft_types.iter().map(|(n, t)| (n.as_str(), *t)).collect::<Vec<_>>(),
        [("a", "LORA"), ("b", "IA3")]
    );
    assert_eq!((status.num_adapter_layers, status.enabled), (5, true));
    assert_eq!((&status.available_adapters, &status.active_adapters), (&both, &strings(&["b"])));
    assert_eq!(status.requires_grad.values().copied().collect::<Vec<_>>(), [Trained::No, Trained::Yes]);
    let report = model.trainable_parameters();
    assert_eq!((status.trainable_params, status.total_params), (report.trainable, report.all));

    let layers = model.layer_status();
    let names: Vec<_> = layers.iter().map(|l| (l.name.as_str(), l.module_type, l.available_adapters.len())).collect();
    assert_eq!(
        names,
        [
            ("model.embed_tokens", "Embedding", 1),
            ("model.layers.0.self_attn.q_proj", "Linear", 2),
            ("model.layers.0.mlp.down_proj", "Linear", 1),
            ("model.layers.1.self_attn.q_proj", "Linear", 2),
            ("model.layers.1.mlp.down_proj", "Linear", 1),
        ]
    );
    assert_eq!((&layers[0].active_adapters, &layers[1].active_adapters), (&strings(&[]), &strings(&["b"])));

    model.set_adapter(&["b", "a"]).unwrap();
    assert_eq!(model.model_status().active_adapters, strings(&["b", "a"]));
    assert_eq!(model.layer_status()[1].requires_grad.values().copied().collect::<Vec<_>>(), [Trained::Yes; 2]);
    model.set_trainable(false);
    assert_eq!(model.model_status().trainable_params, 0);
    assert_eq!(model.model_status().requires_grad["a"], Trained::No);

    model.merge_adapters(&["a"], true).unwrap();
    assert_eq!(model.model_status().merged_adapters, strings(&["a"]));
    assert_eq!(
        (&model.layer_status()[1].merged_adapters, &model.layer_status()[2].merged_adapters),
        (&strings(&["a"]), &vec![])
    );
    model.disable_adapters().unwrap();
    assert!(!model.model_status().enabled && model.model_status().merged_adapters.is_empty());
    assert_eq!(scores(&model), scores(&base));
    model.enable_adapters().unwrap();
    assert_eq!(model.model_status().merged_adapters, strings(&["a"]));
    model.unmerge_adapters();

    model.delete_adapter("a").unwrap();
    let status = model.model_status();
    assert_eq!((&status.available_adapters, &status.active_adapters), (&strings(&["b"]), &strings(&["b"])));
    assert_eq!(status.num_adapter_layers, 4);
    model.merge_adapters(&["b"], true).unwrap();
    model.unload();
    assert_eq!(model.base_weights(), base.base_weights());
    let status = model.model_status();
    assert!(
        status.available_adapters.is_empty() && status.active_adapters.is_empty() && status.merged_adapters.is_empty()
    );
    assert_eq!((status.num_adapter_layers, status.trainable_params), (0, 0));
}

/// PEFT's `is_trainable`: what is loaded to be used is frozen, whatever is trained beside it.
#[test]
fn each_adapter_is_trained_or_frozen_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    two().save_adapter("a", dir.path()).unwrap();
    let mut model = Classifier::random(1, [8, 6], 3, true);
    model.add_adapter("trained", &lora(&["q_proj"]).into(), 1).unwrap();
    let alone = model.trainable_parameters().trainable;
    model.load_adapter(dir.path(), "frozen", false).unwrap();
    let trained = |model: &Classifier| {
        assert_eq!(model.model_status().irregular_layers, strings(&[]));
        model.model_status().requires_grad.into_values().collect::<Vec<_>>()
    };
    assert_eq!((trained(&model), model.trainable_parameters().trainable), (vec![Trained::No; 2], 0));
    model.set_adapter(&["trained"]).unwrap();
    assert_eq!(trained(&model), [Trained::No, Trained::Yes]);
    model.set_adapter(&["frozen", "trained"]).unwrap();
    assert_eq!(trained(&model), [Trained::No, Trained::Yes]);
    assert_eq!(model.trainable_parameters().trainable, alone);
    assert!(model.trains_adapters());
    // Training changes exactly the parameters that say they are trained.
    let before = [model.adapter_contents("frozen").unwrap(), model.adapter_contents("trained").unwrap()];
    let training = model.clone().train();
    let grads = GradientsParams::from_grads(training.forward(&[1, 2]).powi_scalar(2).mean().backward(), &training);
    let after = AdamWConfig::new().init().step(1e-1, training, grads).valid();
    assert_eq!(after.adapter_contents("frozen").unwrap(), before[0]);
    assert_ne!(after.adapter_contents("trained").unwrap(), before[1]);

    model.set_trainable(true);
    assert_eq!(trained(&model), [Trained::Yes; 2]);
    model.hotswap_adapter(dir.path(), "frozen").unwrap();
    assert_eq!(trained(&model), [Trained::Yes; 2]);
}

#[test]
fn layers_that_were_changed_past_the_model_are_named() {
    let mut model = two();
    assert_eq!(model.model_status().irregular_layers, strings(&[]));
    let changed = "model.layers.1.self_attn.q_proj";
    let on = strings(&["b"]);
    for (path, layer) in peft_burn::AdaptableModel::layers_mut(&mut model) {
        if let (true, LayerMut::Linear(linear)) = (path == changed, layer) {
            linear.adapters_mut().set_active(&strings(&["a", "b"]), &on);
        }
    }
    assert_eq!(model.model_status().irregular_layers, strings(&[changed]));
    let status = model.layer_status().into_iter().find(|layer| layer.name == changed).unwrap();
    assert_eq!(status.active_adapters, strings(&["a", "b"]));
    for (path, layer) in peft_burn::AdaptableModel::layers_mut(&mut model) {
        if let (true, LayerMut::Linear(linear)) = (path == changed, layer) {
            linear.adapters_mut().set_active(&on, &[]);
        }
    }
    let status = model.model_status();
    assert_eq!((status.irregular_layers, status.requires_grad["b"]), (strings(&[]), Trained::Irregular));
    model.set_adapter(&["b"]).unwrap();
    assert_eq!(model.model_status().requires_grad["b"], Trained::Yes);
}

/// Every method's merge is checked before it is done: all layers at once, and the base stays as it is.
#[test]
fn a_safe_merge_names_every_layer_that_would_not_be_finite() {
    for (name, config) in configs(2, 1, peft_burn::Bias::None, true) {
        let mut model = Classifier::random(1, [8, 6], 3, false);
        model.add_adapter(name, &config, 1).unwrap();
        perturb(&mut model, name, 3);
        for (key, mut param) in model.adapter_params_mut(name).unwrap() {
            if key.contains("down_proj") {
                let shape = param.view().shape();
                param.set(TensorData::new(vec![f32::INFINITY; shape.iter().product()], shape));
            }
        }
        let before = model.base_weights();
        let error = model.merge_adapters(&[name], true).unwrap_err().to_string();
        for layer in ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"] {
            assert!(error.contains("nothing was merged") && error.contains(layer), "{name}: {error}");
        }
        assert_eq!((model.base_weights(), model.merged_adapters()), (before, &[][..]), "{name}");
    }
}

/// `change` fails with all of `parts` and leaves the model as it was.
fn refused(model: &mut Classifier, change: impl FnOnce(&mut Classifier) -> Result<(), PeftError>, parts: &[&str]) {
    let before = (model.model_status(), model.layer_status(), scores(model), model.base_weights());
    let error = change(model).unwrap_err().to_string();
    parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
    assert!(before == (model.model_status(), model.layer_status(), scores(model), model.base_weights()), "{error}");
}

fn add(name: &'static str, config: impl Into<PeftConfig>) -> impl FnOnce(&mut Classifier) -> Result<(), PeftError> {
    let config = config.into();
    move |model| model.add_adapter(name, &config, 1).map(drop)
}

fn load(dir: &Path) -> impl FnOnce(&mut Classifier) -> Result<(), PeftError> {
    move |model| model.load_adapter(dir, "loaded", false).map(drop)
}

#[test]
fn names_and_configurations_that_do_not_fit_are_refused() {
    let model = &mut two();
    refused(model, add("a", lora(&["q_proj"])), &["named `a` is already attached"]);
    for name in ["", "a.b", "a/b"] {
        refused(model, add(name, lora(&["q_proj"])), &["adapter name", "letters"]);
    }
    let unknown = &["no adapter is named `c`", "attached: a, b"];
    refused(model, |m| m.set_adapter(&["b", "c"]), unknown);
    refused(model, |m| m.merge_adapters(&["c"], false), unknown);
    refused(model, |m| m.delete_adapter("c"), unknown);
    refused(model, |m| m.save_adapter("c", Path::new("never")), unknown);

    let ia3 = |targets: &[&str], feedforward: &[&str]| Ia3Config {
        target_modules: TargetModules::list(targets.to_vec()),
        feedforward_modules: Some(ModuleNames::list(feedforward.to_vec())),
        ..Ia3Config::default()
    };
    refused(
        model,
        add("c", ia3(&["q_proj"], &["down_proj"])),
        &["feedforward_modules", "down_proj", "not in target_modules"],
    );
    let patterned =
        |name: &str| LoraConfig { rank_pattern: [(name.to_owned(), 4)].into_iter().collect(), ..lora(&["q_proj"]) };
    refused(model, add("c", patterned("k_proj")), &["rank_pattern: `k_proj`", "match nothing"]);
    let masked = |path: &str, n| AdaLoraConfig {
        init_r: 3,
        target_r: 2,
        target_modules: TargetModules::list(["q_proj"]),
        rank_pattern: Some([(format!("{path}.lora_E"), vec![true; n])].into()),
        ..AdaLoraConfig::default()
    };
    refused(model, add("c", masked("model.layers.7.self_attn.q_proj", 3)), &["rank_pattern", "layers.7"]);
    refused(
        model,
        add("c", masked("model.layers.0.self_attn.q_proj", 5)),
        &["rank_pattern", "5 entries", "init_r is 3"],
    );
    refused(model, add("c", lora(&["q_proj", "k_prj"])), &["`k_prj`", "match nothing"]);
    let tokens = Some(TokenIndices::List(vec![99]));
    refused(model, add("c", LoraConfig { trainable_token_indices: tokens, ..lora(&["q_proj"]) }), &["99"]);

    model.disable_adapters().unwrap();
    refused(model, |m| m.merge_adapters(&["a"], false), &["disabled", "enable them first"]);
    model.enable_adapters().unwrap();

    model.merge_adapters(&["b"], false).unwrap();
    refused(model, |m| m.merge_adapters(&["a"], false), &["cannot merge again while merged (b)"]);
    refused(model, |m| m.delete_adapter("b"), &["cannot delete adapter `b` while merged"]);
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut source = two();
    source.save_adapter("a", at("a")).unwrap();
    let model = &mut two();
    let edit = |name: &str, change: &dyn Fn(&mut std::collections::BTreeMap<String, TensorData>)| {
        source.save_adapter("a", at(name)).unwrap();
        let path = at(name).join("adapter_model.safetensors");
        let file = TensorFile::open(&path).unwrap();
        let mut tensors = file.names().map(|n| (n.to_owned(), file.read(n).unwrap())).collect();
        drop(file);
        change(&mut tensors);
        write_tensors(&path, &tensors, &[]).unwrap();
    };
    const KEY: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

    // Keys of another method.
    let vera = VeraConfig { r: 2, target_modules: TargetModules::list(["q_proj"]), ..VeraConfig::default() };
    let mut other = Classifier::random(1, [8, 6], 3, true);
    other.add_adapter("v", &vera.into(), 1).unwrap();
    other.save_adapter("v", at("vera")).unwrap();
    std::fs::copy(at("a").join("adapter_model.safetensors"), at("vera").join("adapter_model.safetensors")).unwrap();
    refused(model, load(&at("vera")), &["missing", "q_proj.vera_lambda_b", "unexpected", "q_proj.lora_A.weight"]);

    // Another base: by shape, with a layer too many, with one too few.
    let mut wide = Classifier::random(1, [10, 6], 3, true);
    wide.add_adapter("w", &lora(&["q_proj"]).into(), 1).unwrap();
    wide.save_adapter("w", at("wide")).unwrap();
    refused(model, load(&at("wide")), &["of another shape", "lora_A.weight is [2, 10], expected [2, 8]"]);
    edit("deep", &|tensors| {
        let layer = tensors[KEY].clone();
        tensors.insert(KEY.replace("layers.0", "layers.2"), layer);
    });
    refused(model, load(&at("deep")), &["unexpected (1)", "layers.2.self_attn.q_proj.lora_A.weight"]);
    edit("shallow", &|tensors| tensors.retain(|name, _| !name.contains("layers.1")));
    refused(model, load(&at("shallow")), &["missing (2)", "layers.1.self_attn.q_proj.lora_B.weight"]);

    for bad in [f32::NAN, f32::INFINITY] {
        edit("broken", &|tensors| {
            tensors.insert(KEY.into(), TensorData::new(vec![bad; 16], [2, 8]));
        });
        refused(model, load(&at("broken")), &["with NaN or infinite values (1)", KEY]);
    }
    for (_, mut param) in source.adapter_params_mut("b").unwrap() {
        let shape = param.view().shape();
        param.set(TensorData::new(vec![f32::INFINITY; shape.iter().product()], shape));
    }
    let before = source.base_weights();
    let error = source.merge_adapters(&["b"], true).unwrap_err().to_string();
    assert!(error.contains("nothing was merged") && error.contains("model.layers.1.mlp.down_proj"), "{error}");
    assert_eq!(source.base_weights(), before);

    refused(model, |m| m.load_adapter(at("a"), "b", false).map(drop), &["named `b` is already attached"]);
    refused(model, load(&at("nowhere")), &["nowhere"]);
    std::fs::write(at("a").join("adapter_model.safetensors"), b"short").unwrap();
    refused(model, load(&at("a")), &["not a readable safetensors file"]);
}

#[test]
fn a_quantised_weight_takes_no_merge() {
    let mut model = two();
    for (path, layer) in peft_burn::AdaptableModel::layers_mut(&mut model) {
        let LayerMut::Linear(linear) = layer else { continue };
        if path.ends_with("layers.1.self_attn.q_proj") {
            let base = linear.base_mut();
            let scheme = Device::flex().settings().quantization.scheme;
            let quantised = base.weight.val().dense().quantize_dynamic(&scheme);
            base.weight.set(quantised.set_require_grad(false));
        }
    }
    for safe in [true, false] {
        let error = model.merge_adapters(&["a"], safe).unwrap_err().to_string();
        assert!(error.contains("quantised weights (model.layers.1.self_attn.q_proj)"), "{error}");
        assert!(model.merged_adapters().is_empty());
    }
}
