//! AdaLoRA on a model of one's own, in one's own program: Burn's `Learner` and `SupervisedTraining`, and no Llama.
//!
//! A small network learns which points lie on one side of a curved line. Then the line is turned, and AdaLoRA adapts the
//! network to it: it begins with rank 6 everywhere and ends with rank 2 on average, where it matters.
//!
//! ```sh
//! cargo run --release --example adalora_own_model
//! ```

use std::error::Error;
use std::path::Path;

use burn::data::dataloader::{DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::constant::ConstantLr;
use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::nn::{LinearConfig, loss::CrossEntropyLossConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::LossMetric;
use burn::train::{ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep};
use peft_burn::adalora::{keep_gradients, kept_ranks, live_triplets, orthogonal_regularization, update_and_allocate};
use peft_burn::{
    AdaLoraConfig, AdaptableModel, AdapterFiles, DeviceName, LayerMut, LayerRef, PeftConfig, PeftLinear, PeftModel,
    PeftState, TargetModules, TensorRng,
};

const ADAPTER: &str = "turned";
const POINTS: usize = 768;
const BATCH: usize = 32;

/// Three linear layers. `PeftLinear` stands where `nn::Linear` would.
#[derive(Module, Debug)]
pub struct Net {
    first: PeftLinear,
    second: PeftLinear,
    last: PeftLinear,
    /// Optimiser steps with the adapter.
    steps: usize,
    /// Budget and live triplets after each of them.
    #[module(skip)]
    pub history: Vec<(usize, usize)>,
    /// What went wrong in a step.
    #[module(skip)]
    failed: Option<String>,
    #[module(skip)]
    peft: PeftState,
}

/// What makes it a model that takes adapters: its layers by name.
impl AdaptableModel for Net {
    fn layers(&self) -> Vec<(String, LayerRef<'_>)> {
        let all = [("first", &self.first), ("second", &self.second), ("last", &self.last)];
        all.map(|(name, layer)| (name.to_owned(), LayerRef::Linear(layer))).into()
    }

    fn layers_mut(&mut self) -> Vec<(String, LayerMut<'_>)> {
        let all = [("first", &mut self.first), ("second", &mut self.second), ("last", &mut self.last)];
        all.map(|(name, layer)| (name.to_owned(), LayerMut::Linear(layer))).into()
    }

    fn peft_state(&self) -> &PeftState {
        &self.peft
    }

    fn peft_state_mut(&mut self) -> &mut PeftState {
        &mut self.peft
    }
}

impl Net {
    /// A network with random weights.
    pub fn new(device: &Device) -> Self {
        device.seed(1);
        let linear = |inp, out| PeftLinear::from(LinearConfig::new(inp, out).init(device));
        Self {
            first: linear(2, 48),
            second: linear(48, 48),
            last: linear(48, 2),
            steps: 0,
            history: Vec::new(),
            failed: None,
            peft: PeftState::default(),
        }
    }

    /// Scores of the two sides: `[n, 2]`.
    pub fn forward(&self, points: Tensor<2>) -> Tensor<2> {
        let x = relu(self.first.forward(points));
        self.last.forward(relu(self.second.forward(x)))
    }

    fn train_base(mut self, trainable: bool) -> Self {
        for layer in [&mut self.first, &mut self.second, &mut self.last] {
            layer.set_base_trainable(trainable);
        }
        self
    }

    fn classify(&self, batch: Points) -> ClassificationOutput {
        let output = self.forward(batch.points);
        let loss = CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), batch.sides.clone());
        ClassificationOutput::new(loss, output, batch.sides)
    }
}

impl TrainStep for Net {
    type Input = Points;
    type Output = ClassificationOutput;

    fn step(&self, batch: Points) -> TrainOutput<ClassificationOutput> {
        let item = self.classify(batch);
        // AdaLoRA's own term is part of what is differentiated, not of what is reported. The base has none.
        let loss = match orthogonal_regularization(self, ADAPTER) {
            Ok(orthogonal) => item.loss.clone() + orthogonal,
            Err(_) => item.loss.clone(),
        };
        TrainOutput::new(self, loss.backward(), item)
    }

    fn optimize(self, optim: &mut ModuleOptimizer, lr: ModuleLearningRate, grads: GradientsParams) -> Self {
        if self.active_adapters().is_empty() {
            return optim.step(lr, self, grads);
        }
        let kept = keep_gradients(&self, ADAPTER, &grads);
        let mut next = optim.step(lr, self, grads);
        next.steps += 1;
        let step = next.steps;
        let allocation = kept.and_then(|kept| update_and_allocate(&mut next, ADAPTER, &kept, step));
        match allocation.and_then(|a| Ok((a.budget, live_triplets(&next, ADAPTER)?.into_scalar::<f32>() as usize))) {
            Ok(counts) => next.history.push(counts),
            Err(error) => next.failed = Some(error.to_string()),
        }
        next
    }
}

impl InferenceStep for Net {
    type Input = Points;
    type Output = ClassificationOutput;

    fn step(&self, batch: Points) -> ClassificationOutput {
        self.classify(batch)
    }
}

/// Some points of the plane and their sides of the line.
#[derive(Clone, Debug)]
pub struct Points {
    points: Tensor<2>,
    sides: Tensor<1, Int>,
}

#[derive(Clone)]
struct PointBatcher;

impl Batcher<([f32; 2], i32), Points> for PointBatcher {
    fn batch(&self, items: Vec<([f32; 2], i32)>, device: &Device) -> Points {
        let n = items.len();
        let (points, sides): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        Points {
            points: Tensor::from_data(TensorData::new(points.concat(), [n, 2]), device),
            sides: Tensor::from_data(TensorData::new(sides, [n]), device),
        }
    }
}

/// Random points, labelled by the line y = sin 3x turned by `angle`.
pub fn points(seed: u64, n: usize, angle: f32) -> Vec<([f32; 2], i32)> {
    let (sin, cos) = angle.sin_cos();
    let numbers = TensorRng::new(seed, "points").normal(2 * n, 0.7);
    let side = |p: &[f32]| {
        let (x, y) = (cos * p[0] + sin * p[1], cos * p[1] - sin * p[0]);
        ([p[0], p[1]], i32::from(y > (3.0 * x).sin()))
    };
    numbers.chunks(2).map(side).collect()
}

/// The share of points that the network puts on the right side.
pub fn accuracy(net: &Net, points: &[([f32; 2], i32)]) -> f64 {
    let device = net.devices().remove(0);
    let batch = PointBatcher.batch(points.to_vec(), &device);
    let found = net.forward(batch.points).argmax(1).squeeze_dim::<1>(1).into_data();
    let right = found.iter::<i32>().zip(points).filter(|(found, (_, side))| found == side).count();
    right as f64 / points.len() as f64
}

/// Trains `net` for `epochs` epochs; Burn's own files go to `folder`.
fn train(net: Net, data: Vec<([f32; 2], i32)>, epochs: usize, lr: f64, folder: &Path) -> Result<Net, Box<dyn Error>> {
    let loader = |data| DataLoaderBuilder::new(PointBatcher).batch_size(BATCH).build(InMemDataset::new(data));
    let training = SupervisedTraining::<Net>::new(folder, loader(data.clone()), loader(data[..BATCH].to_vec()))
        .num_epochs(epochs)
        .with_application_logger(None)
        .with_metric_logger(InMemoryMetricLogger::default())
        .metrics((LossMetric::new(),));
    let result = training.launch(Learner::new(net.train(), AdamWConfig::new().init(), ConstantLr::new(lr)));
    match (result.error, &result.model.failed) {
        (Some(error), _) => Err(error.to_string().into()),
        (None, Some(failed)) => Err(failed.clone().into()),
        (None, None) => Ok(result.model),
    }
}

/// Learns the line, turns it, adapts to it. Returns the base's and the adapted network.
pub fn run(epochs: usize, folder: &Path, device: &Device) -> Result<(Net, Net), Box<dyn Error>> {
    let base = Net::new(device).train_base(true);
    let base = train(base, points(1, POINTS, 0.0), 30, 5e-3, folder)?.train_base(false);
    let steps = epochs * POINTS / BATCH;
    let config = AdaLoraConfig {
        init_r: 6,
        target_r: 2,
        tinit: steps / 10,
        tfinal: steps / 3,
        delta_t: 5,
        total_step: Some(steps),
        target_modules: TargetModules::list(["first", "second", "last"]),
        ..AdaLoraConfig::default()
    };
    let mut net = base.clone();
    net.add_adapter(ADAPTER, &PeftConfig::AdaLora(config), 3)?;
    Ok((base, train(net, points(2, POINTS, 0.8), epochs, 1e-2, folder)?))
}

#[allow(dead_code)] // The tests run this program, too, and have a `main` of their own.
fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("runs/adalora_own_model");
    let device = DeviceName::take_from(&mut std::env::args().collect())?.open()?;
    let (base, net) = run(30, folder, &device)?;
    let unseen = points(9, 2000, 0.8);
    println!("{}", net.trainable_parameters());
    println!("on the turned line: {:.1}% right before", 100.0 * accuracy(&base, &unseen));
    println!("                    {:.1}% right after", 100.0 * accuracy(&net, &unseen));
    for kept in kept_ranks(&net, ADAPTER)? {
        println!("{:6}  rank {} of {}", kept.path, kept.rank, kept.of);
    }
    net.save_adapter(ADAPTER, &folder.join("adapter"))?;
    println!("the adapter is in {}", folder.join("adapter").display());
    Ok(())
}
