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
use burn::module::Module;
use burn::nn::{LinearConfig, loss::CrossEntropyLossConfig};
use burn::optim::AdamWConfig;
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};
use burn::train::metric::LossMetric;
use burn::train::{
    ClassificationOutput, InferenceStep, Learner, LearnerModel, SupervisedTraining, TrainOutput, TrainStep,
};
use peft_burn::{AdaLoraConfig, PeftConfig, PeftLinear, PeftState, TargetModules, TensorRng, layers};
use peft_learner::adapted::{Adapted, StepMetric};
use peft_learner::device::DeviceName;
use peft_learner::report::EpochLines;

const POINTS: usize = 768;
const BATCH: usize = 32;
type Point = ([f32; 2], i32);

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

impl Net {
    /// A network with random weights, all of them trained.
    pub fn new(device: &Device) -> Self {
        device.seed(1);
        let linear = |inp, out| {
            let mut layer = PeftLinear::from(LinearConfig::new(inp, out).init(device));
            layer.set_base_trainable(true);
            layer
        };
        Self { first: linear(2, 48), second: linear(48, 48), last: linear(48, 2), peft: PeftState::default() }
    }

    /// Scores of the two sides: `[n, 2]`.
    pub fn forward(&self, points: Tensor<2>) -> Tensor<2> {
        let x = relu(self.first.forward(points));
        self.last.forward(relu(self.second.forward(x)))
    }
}

impl TrainStep for Net {
    type Input = Points;
    type Output = ClassificationOutput;

    fn step(&self, batch: Points) -> TrainOutput<ClassificationOutput> {
        let item = InferenceStep::step(self, batch);
        TrainOutput::new(self, item.loss.backward(), item)
    }
}

impl InferenceStep for Net {
    type Input = Points;
    type Output = ClassificationOutput;

    fn step(&self, batch: Points) -> ClassificationOutput {
        let output = self.forward(batch.points);
        let loss = CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), batch.sides.clone());
        ClassificationOutput::new(loss, output, batch.sides)
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

impl Batcher<Point, Points> for PointBatcher {
    fn batch(&self, items: Vec<Point>, device: &Device) -> Points {
        let n = items.len();
        let (points, sides): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        Points {
            points: Tensor::from_data(TensorData::new(points.concat(), [n, 2]), device),
            sides: Tensor::from_data(TensorData::new(sides, [n]), device),
        }
    }
}

/// Random points, labelled by the line y = sin 3x turned by `angle`.
pub fn points(seed: u64, n: usize, angle: f32) -> Vec<Point> {
    let (sin, cos) = angle.sin_cos();
    let numbers = TensorRng::new(seed, "points").normal(2 * n, 0.7);
    let side = |p: &[f32]| {
        let (x, y) = (cos * p[0] + sin * p[1], cos * p[1] - sin * p[0]);
        ([p[0], p[1]], i32::from(y > (3.0 * x).sin()))
    };
    numbers.chunks(2).map(side).collect()
}

/// The share of points that the network puts on the right side.
pub fn accuracy(net: &Net, points: &[Point]) -> f64 {
    let batch = PointBatcher.batch(points.to_vec(), &net.devices().remove(0));
    let found = net.forward(batch.points).argmax(1).squeeze_dim::<1>(1).into_data();
    let right = found.iter::<i32>().zip(points).filter(|(found, (_, side))| found == side).count();
    right as f64 / points.len() as f64
}

/// Burn's training of `M`, be it the network or the network with an adapter; Burn's own files go to `folder`.
fn training<M>(folder: &Path, data: Vec<Point>, epochs: usize) -> SupervisedTraining<M>
where
    M: LearnerModel
        + TrainStep<Input = Points, Output = ClassificationOutput>
        + InferenceStep<Input = Points, Output = ClassificationOutput>,
{
    let loader = |data| DataLoaderBuilder::new(PointBatcher).batch_size(BATCH).build(InMemDataset::new(data));
    let training = SupervisedTraining::new(folder, loader(data.clone()), loader(data[..BATCH].to_vec()));
    let renderer = EpochLines::or_dashboard(training.interrupter());
    training.num_epochs(epochs).renderer(renderer).with_application_logger(None).metrics((LossMetric::new(),))
}

/// Learns the line, turns it, adapts to it. Returns the base's and the adapted network.
pub fn run(epochs: usize, folder: &Path, device: &Device) -> Result<(Net, Adapted<Net>), Box<dyn Error>> {
    let learner = Learner::new(Net::new(device).train(), AdamWConfig::new().init(), ConstantLr::new(5e-3));
    let base = training(&folder.join("base"), points(1, POINTS, 0.0), 30).launch(learner).model;
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
    let net = Adapted::new(base.clone(), "turned", &PeftConfig::AdaLora(config), 3)?;
    let training = training(folder, points(2, POINTS, 0.8), epochs)
        .metrics((StepMetric::rank_budget(&net), StepMetric::live_triplets(&net)));
    let result = training.launch(Learner::new(net, AdamWConfig::new().init(), ConstantLr::new(1e-2)));
    Ok((base, result.model))
}

#[allow(dead_code)] // The tests run this program, too, and have a `main` of their own.
fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("runs/adalora_own_model");
    let device = DeviceName::take_from(&mut std::env::args().collect())?.open()?;
    let (base, net) = run(30, folder, &device)?;
    let unseen = points(9, 2000, 0.8);
    println!("{}", net.trainable_parameters()?);
    println!("on the turned line: {:.1}% right before", 100.0 * accuracy(&base, &unseen));
    println!("                    {:.1}% right after", 100.0 * accuracy(net.model(), &unseen));
    for kept in net.kept_ranks()? {
        println!("{:6}  rank {} of {}", kept.path, kept.rank, kept.of);
    }
    net.save_adapter(folder.join("adapter"))?;
    println!("the adapter is in {}", folder.join("adapter").display());
    Ok(())
}
