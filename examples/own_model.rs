//! Adapters on a model of one's own: a small classifier of tables is trained on one task and then adapted to another, by
//! each method and in both ways: through Burn's reparameterization, with no line of the model changed, and with layers
//! that take adapters.
//!
//! `cargo run --release --example own_model`
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_burn::{
    AdaLoraConfig, Ia3Config, LoraConfig, ModuleNames, ParamAdapter, PeftConfig, PeftLinear, PeftModel, PeftState,
    TargetModules, TensorRng, VeraConfig, layers,
};
use peft_learner::device::DeviceName;

const FEATURES: usize = 8;
const CLASSES: usize = 4;
const WIDTH: usize = 64;

/// A classifier as anyone would write it.
#[derive(Module, Debug)]
struct Plain {
    first: Linear,
    second: Linear,
    head: Linear,
}

impl Plain {
    fn new(device: &Device) -> Self {
        let linear = |inp, out| LinearConfig::new(inp, out).with_bias(false).init(device);
        Self { first: linear(FEATURES, WIDTH), second: linear(WIDTH, WIDTH), head: linear(WIDTH, CLASSES) }
    }
}

/// The same with layers that take adapters, where no effective weight is made. `layers!` says where they are.
#[derive(Module, Debug)]
struct Own {
    first: PeftLinear,
    second: PeftLinear,
    head: PeftLinear,
    #[module(skip)]
    adapters: PeftState,
}

layers!(Own { first, second, head }, adapters);

impl From<Plain> for Own {
    fn from(plain: Plain) -> Self {
        let Plain { first, second, head } = plain;
        Self { first: first.into(), second: second.into(), head: head.into(), adapters: PeftState::default() }
    }
}

trait Classifier: Module {
    fn forward(&self, x: Tensor<2>) -> Tensor<2>;
}

impl Classifier for Plain {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(relu(self.second.forward(relu(self.first.forward(x)))))
    }
}

impl Classifier for Own {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(relu(self.second.forward(relu(self.first.forward(x)))))
    }
}

/// Rows of numbers, and what class each is of.
struct Table {
    x: Tensor<2>,
    y: Tensor<1, Int>,
}

/// The class is the largest of four quadratic scores of the row; each task has scores of its own.
fn table(task: &str, rows: usize, seed: u64, device: &Device) -> Table {
    let weights = TensorRng::new(0, task).normal(2 * CLASSES * FEATURES, 1.0);
    let values = TensorRng::new(seed, task).normal(rows * FEATURES, 1.0);
    let class = |row: &[f32]| {
        let score = |c: usize| -> f32 {
            let (linear, square) = weights[2 * c * FEATURES..][..2 * FEATURES].split_at(FEATURES);
            row.iter().zip(linear.iter().zip(square)).map(|(x, (a, b))| a * x + 0.3 * b * (x * x - 1.0)).sum()
        };
        (0..CLASSES).max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap_or(0) as i32
    };
    let classes: Vec<i32> = values.chunks(FEATURES).map(class).collect();
    Table {
        x: Tensor::from_data(TensorData::new(values, [rows, FEATURES]), device),
        y: Tensor::from_data(TensorData::new(classes, [rows]), device),
    }
}

fn accuracy(model: &impl Classifier, table: &Table) -> f64 {
    let right = model.forward(table.x.clone()).argmax(1).squeeze_dim::<1>(1).equal(table.y.clone());
    100.0 * right.int().sum().into_scalar::<i64>() as f64 / table.x.dims()[0] as f64
}

fn train<M: Classifier>(model: M, table: &Table, steps: usize, learning_rate: f64) -> M {
    let mut model = model.train();
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    let loss = CrossEntropyLossConfig::new().init(&table.x.device());
    for _ in 0..steps {
        let loss = loss.forward(model.forward(table.x.clone()), table.y.clone());
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(learning_rate, model, grads);
    }
    model.valid()
}

fn configs() -> Vec<(&'static str, PeftConfig)> {
    let layers = || TargetModules::list(["first", "second", "head"]);
    let lora = || LoraConfig { r: 8, lora_alpha: 16.0, target_modules: layers(), ..LoraConfig::default() };
    let adalora = AdaLoraConfig {
        init_r: 8,
        target_r: 8,
        lora_alpha: 16.0,
        target_modules: layers(),
        ..AdaLoraConfig::default()
    };
    let feedforward_modules = Some(ModuleNames::list(["second", "head"]));
    vec![
        ("LoRA", lora().into()),
        ("DoRA", LoraConfig { use_dora: true, ..lora() }.into()),
        ("VeRA", VeraConfig { r: 128, d_initial: 1.0, target_modules: layers(), ..VeraConfig::default() }.into()),
        ("AdaLoRA", adalora.into()),
        ("IA3", Ia3Config { target_modules: layers(), feedforward_modules, ..Ia3Config::default() }.into()),
    ]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = DeviceName::take_from(&mut std::env::args().collect())?.open()?;
    device.seed(1);
    let base = train(Plain::new(&device), &table("old", 2000, 1, &device), 300, 3e-3);
    let (rows, held_out) = (table("new", 2000, 1, &device), table("new", 2000, 2, &device));
    println!("old task: {:.1}% of 2,000 held-out rows right", accuracy(&base, &table("old", 2000, 2, &device)));
    println!("new task: {:.1}% before adaptation\n", accuracy(&base, &held_out));
    println!("method   trained  of all  new task: nn::Linear  PeftLinear");
    for (name, config) in configs() {
        // One way: the model stays what it is.
        let (plain, adapter) = ParamAdapter::attach(base.clone(), &config, 1)?;
        let plain = train(plain, &rows, 300, 1e-2);
        // The other: layers that take adapters. Many can be on them at once, and be switched and merged.
        let mut own = Own::from(base.clone());
        own.add_adapter("new", &config, 1)?;
        let own = train(own, &rows, 300, 1e-2);
        let report = adapter.trainable_parameters();
        let [plain, own] = [accuracy(&plain, &held_out), accuracy(&own, &held_out)];
        println!("{name:8} {:7} {:6.1}% {plain:20.1}% {own:10.1}%", report.trainable, report.percentage());
    }
    Ok(())
}
