//! Properties of every model, rank and set of adapters.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

#[path = "properties/own_model.rs"]
mod own_model;

#[path = "properties/handling.rs"]
mod handling;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{TensorData, Tolerance};
use common::{Classifier, VOCAB};
use peft_burn::{
    AdaLoraConfig, AdapterFiles, Bias, Ia3Config, LoHaConfig, LoraConfig, ModuleNames, ParamMut, PeftConfig, PeftModel,
    TargetModules, TaskType, TensorRng, VeraConfig,
};
use proptest::prelude::*;
use proptest::sample::subsequence;

const IDS: [i32; 5] = [0, 3, 7, 3, (VOCAB - 1) as i32];

/// A configuration of each method for rank `r`, by name.
fn configs(r: usize, key: u64, bias: Bias, init_weights: bool) -> Vec<(&'static str, PeftConfig)> {
    let both = || TargetModules::list(["q_proj", "down_proj"]);
    let lora = LoraConfig { r, lora_alpha: 3.0, target_modules: both(), ..LoraConfig::default() };
    let embedding = TargetModules::list(["embed_tokens", "down_proj"]);
    vec![
        ("lora", LoraConfig { bias, lora_bias: true, ..lora.clone() }.into()),
        ("rslora", LoraConfig { use_rslora: true, target_modules: embedding.clone(), ..lora.clone() }.into()),
        ("dora", LoraConfig { use_dora: true, ..lora.clone() }.into()),
        ("dora_embedding", LoraConfig { use_dora: true, target_modules: embedding, ..lora }.into()),
        (
            "vera",
            VeraConfig {
                r: 2 * r,
                projection_prng_key: key,
                init_weights,
                target_modules: both(),
                ..VeraConfig::default()
            }
            .into(),
        ),
        (
            "adalora",
            AdaLoraConfig { init_r: r, target_r: 1, target_modules: both(), ..AdaLoraConfig::default() }.into(),
        ),
        ("loha", LoHaConfig { r, init_weights, target_modules: both(), ..LoHaConfig::default() }.into()),
        ("ia3", Ia3Config { target_modules: both(), ..Ia3Config::default() }.into()),
        (
            "ia3_output",
            Ia3Config {
                target_modules: both(),
                feedforward_modules: Some(ModuleNames::list(Vec::<String>::new())),
                modules_to_save: Some(vec!["score".into()]),
                ..Ia3Config::default()
            }
            .into(),
        ),
    ]
}

/// Every parameter of the adapter moved by noise.
fn perturb(model: &mut Classifier, name: &str, seed: u64) {
    perturb_params(model.adapter_params_mut(name).unwrap(), seed);
}

fn perturb_params(params: Vec<(String, ParamMut<'_>)>, seed: u64) {
    for (key, mut param) in params {
        let data = param.view().to_data();
        let noise = TensorRng::new(seed, &key).normal(data.num_elements(), 0.3);
        let moved: Vec<f32> = data.iter::<f32>().zip(noise).map(|(v, n)| v + n).collect();
        param.set(TensorData::new(moved, data.shape().clone()));
    }
}

fn scores(model: &Classifier) -> TensorData {
    model.forward(&IDS).into_data()
}

fn assert_close(a: &TensorData, b: &TensorData, tolerance: f64) {
    let largest = a.iter::<f64>().fold(1.0, |m: f64, v| m.max(v.abs()));
    a.assert_approx_eq::<f32>(b, Tolerance::absolute((tolerance * largest) as f32));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn forward_is_merged_forward_and_unmerging_and_saving_are_identities(
        seed in 0..1_000_u64,
        sizes in [4..20_usize, 4..20_usize],
        r in 1..5_usize,
        bias in any::<bool>(),
        init_weights in any::<bool>(),
        mut order in subsequence((0..8).collect::<Vec<usize>>(), 1..6).prop_shuffle(),
    ) {
        let mut model = Classifier::random(seed, sizes, 3, bias);
        let base = model.base_weights();
        let trained = if bias { Bias::All } else { Bias::None };
        let configs = configs(r, seed, trained, init_weights);
        order.dedup();
        let names: Vec<_> = order.iter().map(|&i| configs[i].0).collect();
        for &i in &order {
            let (name, config) = &configs[i];
            model.add_adapter(name, config, seed).unwrap();
            perturb(&mut model, name, seed);
        }
        model.set_adapter(&names).unwrap();
        let active = scores(&model);
        prop_assert!(active.iter::<f32>().all(f32::is_finite));

        model.merge_adapters(&names, true).unwrap();
        assert_close(&scores(&model), &active, 3e-5);
        model.disable_adapters().unwrap();
        prop_assert_eq!(model.base_weights(), base.clone());
        model.enable_adapters().unwrap();
        assert_close(&scores(&model), &active, 3e-5);
        model.unmerge_adapters();
        prop_assert_eq!(model.base_weights(), base.clone());
        prop_assert_eq!(scores(&model), active.clone());

        let dir = tempfile::tempdir().unwrap();
        let mut loaded = Classifier::random(seed, sizes, 3, bias);
        for name in &names {
            model.save_adapter(name, dir.path().join(name)).unwrap();
            loaded.load_adapter(dir.path().join(name), name, false).unwrap();
        }
        loaded.set_adapter(&names).unwrap();
        prop_assert_eq!(scores(&loaded), active);
        for name in &names {
            let again = dir.path().join(format!("{name}-again"));
            loaded.save_adapter(name, &again).unwrap();
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                let read = |dir: &std::path::Path| std::fs::read(dir.join(file)).unwrap();
                prop_assert!(read(&dir.path().join(name)) == read(&again), "{} of {} changed", file, name);
            }
        }
        loaded.unload();
        prop_assert_eq!(loaded.base_weights(), base);
    }

    #[test]
    fn two_runs_of_one_seed_agree_to_the_bit(seed in 0..1_000_u64, which in 0..8_usize) {
        let run = || {
            let (name, config) = configs(3, seed, Bias::None, true).swap_remove(which);
            let mut model = Classifier::random(seed, [8, 6], 3, false);
            model.add_adapter(name, &config, seed).unwrap();
            let mut model = model.train();
            let mut optimizer = AdamWConfig::new().init();
            for _ in 0..3 {
                let loss = model.forward(&IDS).powi_scalar(2).mean();
                let grads = GradientsParams::from_grads(loss.backward(), &model);
                model = optimizer.step(1e-2, model, grads);
            }
            model.adapter_params(name).unwrap().into_iter().map(|(k, p)| (k, p.to_data())).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}

/// Loading is strict, so every name and shape of PEFT's file has its place, and none is missing.
#[test]
fn pefts_own_classifier_adapter_loads() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/x_seq_cls/adapter");
    let mut model = Classifier::random(1, [64, 64], 3, false);
    let before = scores(&model);
    model.load_adapter(golden, "default", false).unwrap();
    assert_ne!(scores(&model), before);
}

#[test]
fn every_method_trains_and_saves_a_classifiers_head() {
    for (_, config) in configs(4, 0, Bias::None, true) {
        let mut config = config;
        *config.shared_mut().task_type = Some(TaskType::SeqCls);
        let mut model = Classifier::random(1, [8, 6], 3, false);
        model.add_adapter("default", &config, 1).unwrap();
        let before = model.base_weights();
        let mut training = model.train();
        let loss = training.forward(&IDS).powi_scalar(2).mean();
        let grads = GradientsParams::from_grads(loss.backward(), &training);
        training = AdamWConfig::new().init().step(1e-1, training, grads);
        let model = training.valid();
        assert_eq!(model.base_weights(), before, "the base does not move");

        let (config, tensors) = model.adapter_contents("default").unwrap();
        let mut heads = config.modules_to_save().to_vec();
        heads.sort();
        assert_eq!(heads, ["classifier", "score"]);
        let score = &tensors["base_model.model.score.weight"];
        assert_eq!(score.shape().as_slice(), [3, 8]);
        assert_ne!(Some(score), before.last(), "the head is trained");
        let dir = tempfile::tempdir().unwrap();
        model.save_adapter("default", dir.path()).unwrap();
        let mut loaded = Classifier::random(1, [8, 6], 3, false);
        loaded.load_adapter(dir.path(), "default", false).unwrap();
        assert_eq!(scores(&loaded), scores(&model));
    }
}
