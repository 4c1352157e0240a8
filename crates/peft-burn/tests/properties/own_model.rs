//! A model that knows nothing of adapters, and the same model made of `PeftLinear`: every method does the same to both.

use std::path::Path;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use peft_burn::adalora::{keep_gradients, orthogonal_regularization, update_and_allocate};
use peft_burn::{
    AdaLoraConfig, AdapterFiles, Bias, Ia3Config, InitLoraWeights, LoHaConfig, LoraConfig, ModuleNames, ParamAdapter,
    PeftConfig, PeftLinear, PeftModel, PeftState, TargetModules, TensorRng, VeraConfig, layers,
};

use crate::{assert_close, perturb_params};

#[derive(Module, Debug)]
struct PlainBlock {
    up: Linear,
    down: Linear,
}

/// Someone else's model.
#[derive(Module, Debug)]
struct Plain {
    embedding: Embedding,
    blocks: Vec<PlainBlock>,
    head: Linear,
}

impl Plain {
    fn new() -> Self {
        let device = Device::flex();
        device.seed(3);
        let linear = |inp, out, bias| LinearConfig::new(inp, out).with_bias(bias).init(&device);
        let blocks = (0..2).map(|_| PlainBlock { up: linear(6, 10, false), down: linear(10, 6, true) }).collect();
        Self { embedding: EmbeddingConfig::new(4, 6).init(&device), blocks, head: linear(6, 3, true) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = self.blocks.iter().fold(x, |x, b| x.clone() + b.down.forward(b.up.forward(x).tanh()));
        self.head.forward(x)
    }
}

#[derive(Module, Debug)]
struct Block {
    up: PeftLinear,
    down: PeftLinear,
}

layers!(Block { up, down });

/// The same with layers that take adapters.
#[derive(Module, Debug)]
struct Own {
    blocks: Vec<Block>,
    head: PeftLinear,
    #[module(skip)]
    adapters: PeftState,
}

layers!(Own { blocks, head }, adapters);

impl Own {
    fn from(plain: &Plain) -> Self {
        let block = |b: &PlainBlock| Block { up: b.up.clone().into(), down: b.down.clone().into() };
        let blocks = plain.blocks.iter().map(block).collect();
        Self { blocks, head: plain.head.clone().into(), adapters: PeftState::default() }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = self.blocks.iter().fold(x, |x, b| x.clone() + b.down.forward(b.up.forward(x).tanh()));
        self.head.forward(x)
    }
}

fn configs() -> Vec<(&'static str, PeftConfig)> {
    let both = || TargetModules::list(["up", "down"]);
    let saved = || Some(vec!["head".to_owned()]);
    let lora = || LoraConfig { r: 3, lora_alpha: 5.0, target_modules: both(), ..LoraConfig::default() };
    let feedforward_modules = Some(ModuleNames::list(["down"]));
    vec![
        ("lora", LoraConfig { rank_pattern: [("blocks.0.up".to_owned(), 1)].into_iter().collect(), ..lora() }.into()),
        ("rslora", LoraConfig { use_rslora: true, bias: Bias::All, ..lora() }.into()),
        ("pissa", LoraConfig { init_lora_weights: InitLoraWeights::Pissa, ..lora() }.into()),
        ("dora", LoraConfig { use_dora: true, modules_to_save: saved(), ..lora() }.into()),
        ("vera", VeraConfig { r: 5, target_modules: both(), ..VeraConfig::default() }.into()),
        (
            "adalora",
            AdaLoraConfig { init_r: 4, target_r: 2, target_modules: both(), ..AdaLoraConfig::default() }.into(),
        ),
        (
            "ia3",
            Ia3Config { target_modules: both(), feedforward_modules, modules_to_save: saved(), ..Ia3Config::default() }
                .into(),
        ),
        ("loha", LoHaConfig { r: 2, target_modules: both(), modules_to_save: saved(), ..LoHaConfig::default() }.into()),
    ]
}

fn input(seed: u64) -> Tensor<2> {
    let values = TensorRng::new(seed, "x").normal(7 * 6, 1.0);
    Tensor::from_data(TensorData::new(values, [7, 6]), &Device::flex())
}

fn file(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn every_method_does_to_plain_layers_what_it_does_to_its_own() {
    for (name, config) in configs() {
        let plain = Plain::new();
        let mut own = Own::from(&plain);
        own.add_adapter("default", &config, 1).unwrap();
        perturb_params(own.adapter_params_mut("default").unwrap(), 2);
        let dir = tempfile::tempdir().unwrap();
        own.save_adapter("default", &dir.path().join("own")).unwrap();
        let base = plain.head.weight.val().into_data();
        let (model, adapter) = ParamAdapter::load(plain, &dir.path().join("own"), true).unwrap();
        assert!(adapter.warnings().is_empty(), "{name}: {:?}", adapter.warnings());

        let (mut model, mut own) = (model.train(), own.train());
        let (mut ours, mut theirs) = (AdamWConfig::new().init(), AdamWConfig::new().init());
        for step in 0..3 {
            let y = [own.forward(input(step)), model.forward(input(step))];
            assert_close(&y[1].to_data(), &y[0].to_data(), 1e-5);
            let [mut own_loss, mut loss] = y.map(|y| y.powi_scalar(2).mean());
            if name == "adalora" {
                own_loss = own_loss + orthogonal_regularization(&own, "default").unwrap();
                loss = loss + orthogonal_regularization(&adapter.layers(&model).unwrap(), "default").unwrap();
            }
            let [own_grads, grads] = [own_loss, loss].map(|loss| loss.backward());
            let own_grads = GradientsParams::from_grads(own_grads, &own);
            let grads = GradientsParams::from_grads(grads, &model);
            let layers = adapter.layers(&model).unwrap();
            let expected = own.adapter_params("default").unwrap();
            assert_eq!(grads.len(), expected.len(), "{name}: nothing else has a gradient");
            for ((key, theirs), (own_key, ours)) in layers.adapter_params("default").unwrap().iter().zip(expected) {
                assert_eq!(*key, own_key);
                let [theirs, ours] = [theirs.grad(&grads).unwrap(), ours.grad(&own_grads).unwrap()];
                assert_close(&theirs, &ours, 1e-4);
            }
            own = ours.step(1e-2, own, own_grads);
            model = theirs.step(1e-2, model, grads);
        }
        let (model, own) = (model.valid(), own.valid());
        assert_eq!(model.head.weight.base().into_data(), base, "{name}: the base does not move");
        let expected = own.forward(input(9)).into_data();
        assert_close(&model.forward(input(9)).into_data(), &expected, 1e-5);

        adapter.save(&model, &dir.path().join("plain")).unwrap();
        let mut again = Own::from(&Plain::new());
        again.load_adapter(&dir.path().join("plain"), "default", false).unwrap();
        assert_close(&again.forward(input(9)).into_data(), &expected, 1e-5);
        let record = model.clone().into_record();
        let (fresh, _) = ParamAdapter::load(Plain::new(), &dir.path().join("own"), true).unwrap();
        fresh.forward(input(1));
        let restored = fresh.load_record(record);
        assert_eq!(restored.forward(input(9)).into_data(), model.forward(input(9)).into_data(), "{name}");
        adapter.save(&restored, &dir.path().join("restored")).unwrap();
        assert!(file(&dir.path().join("restored")) == file(&dir.path().join("plain")), "{name}");
        assert_close(&model.materialize().forward(input(9)).into_data(), &expected, 1e-5);
    }
}

#[test]
fn adalora_is_pruned_on_plain_layers_as_on_its_own() {
    const STEPS: usize = 12;
    let target_modules = TargetModules::list(["up", "down"]);
    let phases = AdaLoraConfig { tinit: 2, tfinal: 3, delta_t: 2, total_step: Some(STEPS), ..AdaLoraConfig::default() };
    let config = PeftConfig::AdaLora(AdaLoraConfig { init_r: 4, target_r: 2, target_modules, ..phases });
    let plain = Plain::new();
    let mut own = Own::from(&plain);
    own.add_adapter("default", &config, 5).unwrap();
    let (model, mut adapter) = ParamAdapter::attach(plain, &config, 5).unwrap();
    let (mut model, mut own) = (model.train(), own.train());
    let (mut ours, mut theirs) = (AdamWConfig::new().init(), AdamWConfig::new().init());
    for step in 1..=STEPS {
        let target = input(100).slice([0..7, 0..3]);
        let loss = |y: Tensor<2>| (y - target.clone()).powi_scalar(2).mean();
        let own_loss = loss(own.forward(input(0))) + orthogonal_regularization(&own, "default").unwrap();
        let layers = adapter.layers(&model).unwrap();
        let model_loss = loss(model.forward(input(0))) + orthogonal_regularization(&layers, "default").unwrap();
        let own_grads = GradientsParams::from_grads(own_loss.backward(), &own);
        let grads = GradientsParams::from_grads(model_loss.backward(), &model);
        let own_kept = keep_gradients(&own, "default", &own_grads).unwrap();
        let kept = keep_gradients(&layers, "default", &grads).unwrap();
        own = ours.step(1e-2, own, own_grads);
        model = theirs.step(1e-2, model, grads);
        let expected = update_and_allocate(&mut own, "default", &own_kept, step).unwrap();
        let (next, allocation) = adapter.update_and_allocate(model, &kept, step).unwrap();
        model = next;
        assert_eq!(allocation.budget, expected.budget);
        assert_eq!(allocation.mask.map(|m| m.kept), expected.mask.map(|m| m.kept), "step {step}");
    }
    let (model, own) = (model.valid(), own.valid());
    assert_close(&model.forward(input(9)).into_data(), &own.forward(input(9)).into_data(), 1e-4);
    let layers = adapter.layers(&model).unwrap();
    let (config, tensors) = layers.adapter_contents("default").unwrap();
    let (expected, own_tensors) = own.adapter_contents("default").unwrap();
    assert_eq!(config, expected);
    let PeftConfig::AdaLora(config) = config else { panic!("AdaLoRA") };
    let kept: usize = config.rank_pattern.unwrap().values().flatten().filter(|kept| **kept).count();
    assert_eq!(kept, 4 * 2, "the budget is met");
    let shapes = |all: &std::collections::BTreeMap<String, TensorData>| {
        all.iter().map(|(key, data)| (key.clone(), data.shape().to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&tensors), shapes(&own_tensors));
}

#[test]
fn a_new_adapter_begins_as_it_does_on_layers_of_its_own() {
    for (name, config) in configs() {
        let plain = Plain::new();
        let mut own = Own::from(&plain);
        own.add_adapter("default", &config, 5).unwrap();
        let report = own.trainable_parameters();
        let (model, adapter) = ParamAdapter::attach(plain, &config, 5).unwrap();
        assert_eq!(adapter.trainable_parameters().trainable, report.trainable, "{name}");
        // The embedding is a part of the one model and not of the other.
        assert_eq!(adapter.trainable_parameters().all, report.all + 4 * 6, "{name}");
        let layers = adapter.layers(&model).unwrap();
        let (config, tensors) = own.adapter_contents("default").unwrap();
        assert_eq!(adapter.config().unwrap(), &config);
        assert_eq!(layers.adapter_contents("default").unwrap().1, tensors, "{name}");
    }
}

#[test]
fn what_a_parameter_alone_cannot_do_is_refused_with_the_way_out() {
    let refused = |config: &PeftConfig, parts: &[&str]| {
        let error = ParamAdapter::attach(Plain::new(), config, 1).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
    };
    let lora =
        |names: &[&str]| LoraConfig { target_modules: TargetModules::list(names.to_vec()), ..LoraConfig::default() };
    let up = || lora(&["up"]);
    let both = LoraConfig { lora_dropout: 0.1, lora_bias: true, ..up() };
    refused(&both.into(), &["lora_dropout = 0.1", "lora_bias", "PeftLinear"]);
    let vera = VeraConfig { vera_dropout: 0.2, target_modules: TargetModules::list(["up"]), ..VeraConfig::default() };
    refused(&vera.into(), &["vera_dropout = 0.2"]);
    let ia3 = Ia3Config {
        target_modules: TargetModules::list(["up", "down"]),
        feedforward_modules: Some(ModuleNames::list(Vec::<String>::new())),
        ..Ia3Config::default()
    };
    refused(&ia3.into(), &["blocks.0.down", "blocks.1.down", "bias", "feedforward_modules", "PeftLinear"]);
    let loha = LoHaConfig { rank_dropout: 0.1, module_dropout: 0.2, ..LoHaConfig::default() };
    let loha = LoHaConfig { target_modules: TargetModules::list(["up"]), ..loha };
    refused(&loha.into(), &["rank_dropout = 0.1", "module_dropout = 0.2"]);
    refused(&lora(&["embedding"]).into(), &["embedding"]);
    refused(&lora(&["upp"]).into(), &["`upp`, did you mean `up`"]);
    refused(&LoraConfig { modules_to_save: Some(vec!["embedding".into()]), ..up() }.into(), &["embedding"]);

    let (model, adapter) = ParamAdapter::attach(Plain::new(), &up().into(), 1).unwrap();
    let error = ParamAdapter::attach(model, &up().into(), 1).unwrap_err().to_string();
    assert!(error.contains("materialize"), "{error}");
    let error = adapter.layers(&Plain::new()).unwrap_err().to_string();
    assert!(error.contains("not on") && error.contains("blocks.0.up"), "{error}");
}
