//! AdaLoRA on a model of one's own, in Burn's training loop and without a Llama: `cargo run --release --example
//! adalora_own_model`.
//!
//! A small network learns which points lie on one side of a curved line. Then the line is turned, and AdaLoRA adapts the
//! network to it: it begins with rank 6 everywhere and ends with rank 2 on average, where it matters.

use std::{error::Error, path::Path};

use burn::data::{dataloader::DataLoaderBuilder, dataloader::batcher::Batcher, dataset::InMemDataset};
use burn::nn::{LinearConfig, loss::CrossEntropyLossConfig};
use burn::train::metric::LossMetric;
use burn::train::{ClassificationOutput, InferenceStep, Learner, LearnerModel, SupervisedTraining, TrainStep};
use burn::{optim::AdamWConfig, prelude::*, tensor::activation::relu};
use peft_burn::{TensorRng, prelude::*};
use peft_learner::prelude::*;

const POINTS: usize = 768;
const BATCH: usize = 32;
/// A point of the plane, and its side of the line.
type Point = ([f32; 2], i32);
type Points = (Tensor<2>, Tensor<1, Int>);

/// Three linear layers. `PeftLinear` stands where `nn::Linear` would.
#[derive(Module, Debug)]
pub struct Net {
    first: PeftLinear,
    second: PeftLinear,
    last: PeftLinear,
    #[module(skip)]
    peft: PeftState,
}

layers!(Net { first, second, last }, peft);
train_by_loss!(Net);
impl Net {
    fn new(device: &Device) -> Self {
        let linear = |inp, out| {
            let mut layer = PeftLinear::from(LinearConfig::new(inp, out).init(device));
            layer.set_base_trainable(true);
            layer
        };
        Self { first: linear(2, 48), second: linear(48, 48), last: linear(48, 2), peft: PeftState::default() }
    }
}

impl InferenceStep for Net {
    type Input = Points;
    type Output = ClassificationOutput;
    fn step(&self, (points, sides): Points) -> ClassificationOutput {
        let output = self.last.forward(relu(self.second.forward(relu(self.first.forward(points)))));
        let loss = CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), sides.clone());
        ClassificationOutput::new(loss, output, sides)
    }
}

#[derive(Clone)]
struct PointBatcher;
impl Batcher<Point, Points> for PointBatcher {
    fn batch(&self, items: Vec<Point>, device: &Device) -> Points {
        let (points, sides): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        let points = TensorData::new(points.concat(), [sides.len(), 2]);
        (Tensor::from_data(points, device), Tensor::from_ints(sides.as_slice(), device))
    }
}

/// Random points, labelled by the line y = sin 3x turned by `angle`.
pub fn points(seed: u64, n: usize, angle: f32) -> Vec<Point> {
    let (sin, cos) = angle.sin_cos();
    let side = |p: &[f32]| {
        let (x, y) = (cos * p[0] + sin * p[1], cos * p[1] - sin * p[0]);
        ([p[0], p[1]], i32::from(y > (3.0 * x).sin()))
    };
    TensorRng::new(seed, "points").normal(2 * n, 0.7).chunks(2).map(side).collect()
}

/// The share of points that the network puts on the right side.
pub fn accuracy(net: &Net, points: &[Point]) -> f64 {
    let output = InferenceStep::step(net, PointBatcher.batch(points.to_vec(), &net.devices()[0]));
    let right = output.output.argmax(1).squeeze_dim::<1>(1).equal(output.targets);
    right.int().sum().into_scalar::<f64>() / points.len() as f64
}

/// Trains the network, or the network with an adapter; Burn's own files go to `folder`.
fn training<M>(folder: &Path, data: Vec<Point>, epochs: usize) -> SupervisedTraining<M>
where
    M: LearnerModel + TrainStep<Input = Points> + InferenceStep<Input = Points, Output = ClassificationOutput>,
    M: TrainStep<Output = ClassificationOutput>,
{
    let loader = |data| DataLoaderBuilder::new(PointBatcher).batch_size(BATCH).build(InMemDataset::new(data));
    let training = SupervisedTraining::new(folder, loader(data.clone()), loader(data[..BATCH].to_vec()));
    training.num_epochs(epochs).show_epochs().metrics((LossMetric::new(),))
}

/// Learns the line, turns it, adapts to it. Returns the base's and the adapted network.
pub fn run(epochs: usize, folder: &Path, device: &Device) -> Result<(Net, Adapted<Net>), Box<dyn Error>> {
    device.seed(1);
    let learner = Learner::new(Net::new(device).train(), AdamWConfig::new().init(), 5e-3);
    let base = training(&folder.join("base"), points(1, POINTS, 0.0), 30).launch(learner).model;
    let steps = epochs * POINTS / BATCH;
    let config = AdaLoraConfig::new(6, 2).with_phases(steps / 10, steps / 3, 5).with_total_step(steps);
    let net = Adapted::new(base.clone(), "turned", config.with_target_modules(["first", "second", "last"]), 3)?;
    let training = training(folder, points(2, POINTS, 0.8), epochs)
        .metrics((StepMetric::rank_budget(&net), StepMetric::live_triplets(&net)));
    Ok((base, training.launch(Learner::new(net, AdamWConfig::new().init(), 1e-2)).model))
}

#[allow(dead_code)] // The tests run this program, too, and have a `main` of their own.
fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("runs/adalora_own_model");
    let device = DeviceName::take_from(&mut std::env::args().collect())?.open()?;
    let (base, net) = run(30, folder, &device)?;
    let unseen = points(9, 2000, 0.8);
    println!("{}", net.trainable_parameters()?);
    let [before, after] = [accuracy(&base, &unseen), accuracy(net.model(), &unseen)];
    println!("on the turned line: {:.1}% right before, {:.1}% after", 100.0 * before, 100.0 * after);
    for kept in net.kept_ranks()? {
        println!("{:6}  rank {} of {}", kept.path, kept.rank, kept.of);
    }
    Ok(net.save_adapter(folder.join("adapter"))?)
}
