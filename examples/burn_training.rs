//! A model of one's own in Burn's own training loop, by the method that the argument names: `cargo run --release --example
//! burn_training -- dora`. The adapter is saved, and loaded in a fresh process: both print the same outputs.
use burn::data::{dataloader::DataLoaderBuilder, dataloader::batcher::Batcher, dataset::InMemDataset};
use burn::tensor::{Device, Tensor, activation::tanh};
use burn::train::{
    InferenceStep, Learner, RegressionOutput, SupervisedTraining, TrainOutput, TrainStep, metric::LossMetric,
};
use burn::{lr_scheduler::constant::ConstantLr, module::Module, nn::LinearConfig, optim::AdamWConfig};
use peft_burn::*;
use peft_learner::{adapted::*, report::EpochLines};

#[derive(Module, Debug)]
struct Net {
    hidden: PeftLinear,
    head: PeftLinear,
    #[module(skip)]
    adapters: PeftState,
}
layers!(Net { hidden, head }, adapters);
impl InferenceStep for Net {
    type Input = Tensor<2>;
    type Output = RegressionOutput;
    fn step(&self, x: Tensor<2>) -> RegressionOutput {
        let (y, output) = (x.clone().mul_scalar(3.0).sin(), self.head.forward(tanh(self.hidden.forward(x))));
        RegressionOutput::new((output.clone() - y.clone()).powi_scalar(2).mean(), output, y)
    }
}
impl TrainStep for Net {
    type Input = Tensor<2>;
    type Output = RegressionOutput;
    fn step(&self, x: Tensor<2>) -> TrainOutput<RegressionOutput> {
        let item = InferenceStep::step(self, x);
        TrainOutput::new(self, item.loss.backward(), item)
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
    let args: Vec<String> = std::env::args().collect();
    let (method, device) = (args.get(1).map_or("adalora", String::as_str), Device::flex().autodiff());
    let (target_modules, dir) = (TargetModules::list(["hidden", "head"]), format!("runs/burn_training/{method}"));
    let config: PeftConfig = match method {
        "lora" => LoraConfig { target_modules, ..Default::default() }.into(),
        "dora" => LoraConfig { target_modules, use_dora: true, ..Default::default() }.into(),
        "vera" => VeraConfig { target_modules, r: 64, d_initial: 1.0, ..Default::default() }.into(),
        "ia3" => {
            Ia3Config { target_modules, feedforward_modules: Some(ModuleNames::list(["head"])), ..Default::default() }
                .into()
        }
        "adalora" => {
            AdaLoraConfig { target_modules, init_r: 6, target_r: 2, tinit: 20, tfinal: 40, ..Default::default() }.into()
        }
        _ => return Err("lora, dora, vera, ia3 or adalora".into()),
    };
    device.seed(1); // the same base in every process
    let linear = |inp, out| PeftLinear::from(LinearConfig::new(inp, out).init(&device));
    let mut net = Net { hidden: linear(1, 64), head: linear(64, 1), adapters: PeftState::default() };
    let points: Vec<f32> = (-32..32).map(|i| i as f32 / 32.0).collect();
    if args.get(2).is_none_or(|word| word != "load") {
        let loader = || DataLoaderBuilder::new(Column).batch_size(16).build(InMemDataset::new(points.clone()));
        let config = config.with_total_step(optimizer_steps(&*loader(), 50, 1)?);
        let adapted = Adapted::new(net.clone(), "default", &config, 42)?.with_max_grad_norm(1.0);
        let training = SupervisedTraining::<Adapted<Net>>::new(&dir, loader(), loader()).num_epochs(50);
        let renderer = EpochLines::or_dashboard(training.interrupter());
        let training = training.renderer(renderer).metrics((LossMetric::new(), StepMetric::live_triplets(&adapted)));
        let result = training.launch(Learner::new(adapted, AdamWConfig::new().init(), ConstantLr::new(2e-2)));
        result.model.save_adapter(format!("{dir}/adapter"))?;
        println!(
            "trained: {}",
            InferenceStep::step(result.model.model(), Column.batch(points, &device.inner())).output.to_data()
        );
        std::process::Command::new(&args[0]).args([method, "load"]).status()?;
    } else {
        net.load_adapter(format!("{dir}/adapter").as_ref(), "default", false)?;
        println!(
            "loaded:  {}",
            InferenceStep::step(&net.valid(), Column.batch(points, &device.inner())).output.to_data()
        );
    }
    Ok(())
}
