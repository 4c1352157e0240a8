//! A Burn model of your own in Burn's own training loop, adapted by the method that the argument names (AdaLoRA without
//! one): `cargo run --release --example burn_training -- dora`. A fresh process loads the adapter and gets the same outputs.
use burn::data::{dataloader::DataLoaderBuilder, dataloader::batcher::Batcher, dataset::InMemDataset};
use burn::nn::{Linear, LinearConfig};
use burn::train::{InferenceStep, Learner, RegressionOutput, SupervisedTraining, metric::LossMetric};
use burn::{module::Module, optim::AdamWConfig, tensor::Device, tensor::Tensor, tensor::activation::tanh};
use peft_burn::prelude::*;
use peft_learner::prelude::*;

#[derive(Module, Debug)]
struct Net {
    hidden: Linear,
    head: Linear,
}

train_by_loss!(Net);
impl InferenceStep for Net {
    type Input = Tensor<2>;
    type Output = RegressionOutput;
    fn step(&self, x: Tensor<2>) -> RegressionOutput {
        let y = x.clone().mul_scalar(3.0).sin();
        let output = self.head.forward(tanh(self.hidden.forward(x)));
        RegressionOutput::new((output.clone() - y.clone()).powi_scalar(2).mean(), output, y)
    }
}

#[derive(Clone)]
struct Column;
impl Batcher<f32, Tensor<2>> for Column {
    fn batch(&self, xs: Vec<f32>, device: &Device) -> Tensor<2> {
        Tensor::<1>::from_floats(xs.as_slice(), device).unsqueeze_dim(1)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let method = std::env::args().nth(1).unwrap_or_else(|| "adalora".into());
    let (dir, device) = (format!("runs/burn_training/{method}"), Device::flex());
    device.seed(1); // the same base in every process
    let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).with_bias(false).init(&device);
    let net = Net { hidden: linear(1, 64), head: linear(64, 1) };
    let points: Vec<f32> = (-32..32).map(|i| i as f32 / 32.0).collect();
    let x = Column.batch(vec![-0.9, -0.5, -0.1, 0.1, 0.5, 0.9], &device);
    let outputs = |net: &Net| InferenceStep::step(net, x.clone()).output.into_data().iter::<f32>().collect::<Vec<_>>();
    if std::env::args().any(|word| word == "load") {
        let (net, _) = ParamAdapter::load(net, format!("{dir}/adapter"), false)?;
        println!("loaded:  {:.4?}", outputs(&net.valid()));
        return Ok(());
    }
    let data = || DataLoaderBuilder::new(Column).batch_size(16).build(InMemDataset::new(points.clone()));
    let preset = PeftConfig::preset(&method, optimizer_steps(&*data(), 50, 1)?).ok_or("there is no such method")?;
    let net = Adapted::on_parameters(net, preset.config.with_target_modules(["hidden", "head"]), 42)?;
    let training = SupervisedTraining::new(&dir, data(), data()).num_epochs(50).show_epochs();
    let training = training.metrics((LossMetric::new(), StepMetric::live_triplets(&net)));
    let net = training.launch(Learner::new(net, AdamWConfig::new().init(), preset.learning_rate)).model;
    net.save_adapter(format!("{dir}/adapter"))?;
    println!("trained: {:.4?}", outputs(net.model()));
    std::process::Command::new(std::env::current_exe()?).args([&method, "load"]).status()?;
    Ok(())
}
