//! Models of one's own with an adapter in Burn's own training loop, against the same training by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher};
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::tanh;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::LossMetric;
use burn::train::metric::store::{Aggregate, Direction, Split};
use burn::train::{
    InferenceStep, Learner, LearnerModel, MetricEarlyStoppingStrategy, RegressionOutput, StoppingCondition,
    SupervisedTraining, TrainOutput, TrainStep,
};
use peft_burn::adalora::{keep_gradients, orthogonal_regularization, update_and_allocate};
use peft_burn::{
    AdaLoraConfig, AdapterFiles, Ia3Config, LoHaConfig, LoraConfig, ModuleNames, ParamAdapter, PeftConfig, PeftLinear,
    PeftModel, PeftState, TargetModules, TensorRng, VeraConfig, layers,
};
use peft_burn_workspace::{assert_close, device};
use peft_learner::adapted::{Adapted, Place, optimizer_steps};
use peft_learner::report::EpochLines;
use peft_learner::train::clip;
use peft_learner::{AdaLoraError, LearnerError};
use rstest::rstest;

const NAME: &str = "default";
const ROWS: usize = 22;
const BATCH: usize = 4;
/// 6 batches an epoch.
const EPOCHS: usize = 4;

/// As anyone would write it.
#[derive(Module, Debug)]
struct Plain {
    first: Linear,
    scale: LayerNorm,
    second: Linear,
}

/// The same with layers that take adapters, and with running statistics if asked for.
#[derive(Module, Debug)]
struct Own {
    first: PeftLinear,
    scale: LayerNorm,
    norm: Option<BatchNorm>,
    second: PeftLinear,
    unused: PeftLinear,
    #[module(skip)]
    adapters: PeftState,
}

layers!(Own { first, second, unused }, adapters);

/// Nothing is drawn: it would disturb the dropout of a run in another test.
fn zeros(inp: usize, out: usize) -> Linear {
    LinearConfig::new(inp, out).with_bias(false).with_initializer(Initializer::Zeros).init(&device())
}

impl Plain {
    fn new() -> Self {
        let device = device();
        let numbers = |name: &str, n| TensorRng::new(1, name).normal(n, 0.5);
        let linear = |name: &str, inp, out| {
            let mut linear = zeros(inp, out);
            let weight = TensorData::new(numbers(name, inp * out), [inp, out]);
            linear.weight = linear.weight.map(|_| Tensor::from_data(weight, &device));
            linear
        };
        let scale = LayerNormConfig::new(8).init(&device);
        Self { first: linear("first", 3, 8), scale, second: linear("second", 8, 2) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.second.forward(tanh(self.scale.forward(self.first.forward(x))))
    }
}

impl Own {
    fn new(norm: bool) -> Self {
        let Plain { first, scale, second } = Plain::new();
        let device = device();
        let unused = zeros(2, 2).into();
        let norm = norm.then(|| BatchNormConfig::new(8).init(&device));
        Self { first: first.into(), scale, norm, second: second.into(), unused, adapters: PeftState::default() }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = self.scale.forward(self.first.forward(x));
        let x = self.norm.as_ref().map_or(x.clone(), |norm| norm.forward(x));
        self.second.forward(tanh(x))
    }
}

macro_rules! trained {
    ($net:ty) => {
        impl TrainStep for $net {
            type Input = Tensor<2>;
            type Output = RegressionOutput;

            fn step(&self, rows: Tensor<2>) -> TrainOutput<RegressionOutput> {
                let item = InferenceStep::step(self, rows);
                TrainOutput::new(self, item.loss.backward(), item)
            }
        }

        impl InferenceStep for $net {
            type Input = Tensor<2>;
            type Output = RegressionOutput;

            /// Three columns of input, two of output.
            fn step(&self, rows: Tensor<2>) -> RegressionOutput {
                let (x, y) = (rows.clone().narrow(1, 0, 3), rows.narrow(1, 3, 2));
                let output = self.forward(x);
                let loss = (output.clone() - y.clone()).powi_scalar(2).mean();
                RegressionOutput::new(loss, output, y)
            }
        }
    };
}

trained!(Plain);
trained!(Own);

#[derive(Clone)]
struct Rows;

impl Batcher<[f32; 5], Tensor<2>> for Rows {
    fn batch(&self, rows: Vec<[f32; 5]>, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), 5]), device)
    }
}

fn rows() -> Vec<[f32; 5]> {
    let numbers = TensorRng::new(3, "rows").normal(3 * ROWS, 1.0);
    numbers.chunks(3).map(|x| [x[0], x[1], x[2], (x[0] * x[1]).sin(), x[2] - x[0]]).collect()
}

fn loader() -> Arc<dyn DataLoader<Tensor<2>>> {
    DataLoaderBuilder::new(Rows).batch_size(BATCH).build(InMemDataset::new(rows()))
}

/// With `dropout` where the method has it.
fn config(method: &str, accumulation: usize, dropout: f64) -> PeftConfig {
    let target_modules = TargetModules::list(["first", "second"]);
    let lora = LoraConfig { r: 3, lora_dropout: dropout, target_modules: target_modules.clone(), ..Default::default() };
    match method {
        "lora" => lora.into(),
        "dora" => LoraConfig { use_dora: true, ..lora }.into(),
        "vera" => {
            VeraConfig { r: 16, d_initial: 1.0, vera_dropout: dropout, target_modules, ..Default::default() }.into()
        }
        "ia3" => {
            let feedforward_modules = Some(ModuleNames::list(["second"]));
            Ia3Config { target_modules, feedforward_modules, ..Default::default() }.into()
        }
        "loha" => {
            let (rank_dropout, module_dropout) = (dropout, dropout);
            LoHaConfig { r: 2, rank_dropout, module_dropout, target_modules, ..Default::default() }.into()
        }
        _ => {
            let (init_r, target_r, tinit, tfinal, delta_t) = (4, 2, 1, 2, 2);
            let lora_dropout = dropout;
            let config = AdaLoraConfig {
                init_r,
                target_r,
                tinit,
                tfinal,
                delta_t,
                lora_dropout,
                target_modules,
                ..Default::default()
            };
            PeftConfig::from(config).with_total_step(optimizer_steps(&*loader(), EPOCHS, accumulation).unwrap())
        }
    }
}

/// Training in Burn's loop, as a user writes it.
fn training<M>(dir: &Path, epochs: usize, accumulation: usize) -> SupervisedTraining<M>
where
    M: LearnerModel
        + TrainStep<Input = Tensor<2>, Output = RegressionOutput>
        + InferenceStep<Input = Tensor<2>, Output = RegressionOutput>,
{
    SupervisedTraining::new(dir, loader(), loader())
        .with_application_logger(None)
        .with_metric_logger(InMemoryMetricLogger::default())
        .renderer(Box::new(EpochLines::to_writer(Box::new(std::io::sink()))))
        .metrics((LossMetric::new(),))
        .grads_accumulation(accumulation)
        .num_epochs(epochs)
}

fn learner<M: LearnerModel>(model: M) -> Learner<M> {
    let schedule = CosineAnnealingLrSchedulerConfig::new(2e-2, 100).init().unwrap();
    Learner::new(model, AdamWConfig::new().init(), schedule)
}

type Tensors = BTreeMap<String, TensorData>;

fn contents<L: PeftModel>(layers: &L) -> Tensors {
    layers.adapter_contents(NAME).unwrap().1
}

fn close(found: &Tensors, expected: &Tensors, tolerance: f32) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    expected.iter().for_each(|(key, data)| assert_close(key, &found[key], data, tolerance.into()));
}

fn own(method: &str, accumulation: usize, clip_at: f64) -> Adapted<Own> {
    let config = config(method, accumulation, 0.0);
    Adapted::new(Own::new(false), NAME, &config, 7).unwrap().with_max_grad_norm(clip_at)
}

fn plain(method: &str, accumulation: usize) -> Adapted<Plain, ParamAdapter> {
    Adapted::on_parameters(Plain::new(), config(method, accumulation, 0.0), 7).unwrap()
}

/// The regulariser in the loss, all batches of a step in one graph, and the calls of [`peft_burn::adalora`].
fn by_hand(method: &str, accumulation: usize, clip_at: f64) -> Own {
    let mut net = Own::new(false);
    net.scale = net.scale.no_grad();
    net.add_adapter(NAME, &config(method, accumulation, 0.0), 7).unwrap();
    let mut net = net.train();
    let mut optim = AdamWConfig::new().init();
    let mut schedule = CosineAnnealingLrSchedulerConfig::new(2e-2, 100).init().unwrap();
    let batches: Vec<_> = rows().chunks(BATCH).map(<[_]>::to_vec).collect();
    let mut step = 0;
    for _ in 0..EPOCHS {
        for group in batches.chunks(accumulation) {
            let losses = group.iter().map(|batch| {
                let loss = InferenceStep::step(&net, Rows.batch(batch.clone(), &device().autodiff())).loss;
                if method == "adalora" { loss + orthogonal_regularization(&net, NAME).unwrap() } else { loss }
            });
            let loss = losses.reduce(|a, b| a + b).unwrap();
            let grads = GradientsParams::from_grads(loss.backward(), &net);
            let (grads, _) = clip(&net, grads, clip_at);
            let kept = (method == "adalora").then(|| keep_gradients(&net, NAME, &grads).unwrap());
            net = optim.step(schedule.step(), net, grads);
            step += 1;
            if let Some(kept) = kept {
                update_and_allocate(&mut net, NAME, &kept, step).unwrap();
            }
        }
    }
    net.valid()
}

#[rstest]
fn every_method_trains_as_by_hand_and_on_plain_layers_too_and_loads_again(
    #[values("lora", "dora", "vera", "ia3", "loha", "adalora")] method: &str,
    #[values(1, 4)] accumulation: usize,
    #[values(0.0, 0.05)] clip_at: f64,
) {
    let dir = tempfile::tempdir().unwrap();
    let expected = contents(&by_hand(method, accumulation, clip_at));
    let trained = training(dir.path(), EPOCHS, accumulation).launch(learner(own(method, accumulation, clip_at))).model;
    assert_eq!(trained.steps(), EPOCHS * 6_usize.div_ceil(accumulation));
    close(&contents(trained.model()), &expected, 1e-5);
    assert!(expected != contents(own(method, accumulation, clip_at).model()), "nothing was trained");

    let other = plain(method, accumulation).with_max_grad_norm(clip_at);
    let other = training(dir.path(), EPOCHS, accumulation).launch(learner(other)).model;
    trained.save_adapter(dir.path().join("own")).unwrap();
    other.save_adapter(dir.path().join("plain")).unwrap();
    let (other, adapter) = other.into_parts().unwrap();
    close(&contents(&adapter.layers(&other).unwrap()), &expected, 1e-4);

    let x = Tensor::<2>::from_floats([[0.3, -0.2, 0.9], [-1.0, 0.4, 0.2]], &device());
    let mut again = Own::new(false);
    again.load_adapter(dir.path().join("own"), NAME, false).unwrap();
    let output = trained.model().forward(x.clone()).into_data();
    assert_close("loaded", &again.forward(x.clone()).into_data(), &output, 1e-6);
    let (again, _) = ParamAdapter::load(Plain::new(), dir.path().join("plain"), false).unwrap();
    assert_close("loaded", &again.forward(x.clone()).into_data(), &other.forward(x).into_data(), 1e-6);
}

/// Stopped after the second of four epochs, and resumed in models made anew.
fn resumed<M, P>(make: impl Fn() -> Adapted<M, P>) -> [Adapted<M, P>; 2]
where
    P: Place<M>,
    M: LearnerModel
        + TrainStep<Input = Tensor<2>, Output = RegressionOutput>
        + InferenceStep<Input = Tensor<2>, Output = RegressionOutput>,
{
    let dir = tempfile::tempdir().unwrap();
    let straight = training(&dir.path().join("straight"), EPOCHS, 1).launch(learner(make())).model;
    let cut = dir.path().join("cut");
    training(&cut, 2, 1).with_default_checkpointers().launch(learner(make()));
    let resumed = training(&cut, EPOCHS, 1).with_default_checkpointers().checkpoint(2).launch(learner(make())).model;
    assert_eq!((straight.steps(), resumed.steps()), (24, 24));
    [straight, resumed]
}

/// The contents of a record of `module`, by path. Ids of parameters are left out: they differ between models.
fn record<M: Module>(module: &M) -> Tensors {
    #[derive(Default)]
    struct Collect {
        path: Vec<String>,
        found: Tensors,
    }
    impl Collect {
        fn add(&mut self, data: TensorData) {
            assert!(self.found.insert(self.path.join("."), data).is_none(), "{:?} twice", self.path);
        }
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.add(param.val().into_data());
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.add(param.val().into_data());
        }
    }
    let mut collect = Collect::default();
    module.visit(&mut collect);
    assert_eq!(collect.found.len(), module.clone().into_record().len());
    collect.found
}

/// Names all that differ.
fn equal(found: &Tensors, expected: &Tensors) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differ: Vec<_> = expected.iter().filter(|(path, data)| found[*path] != **data).map(|(path, _)| path).collect();
    assert!(differ.is_empty(), "these differ: {differ:#?}");
}

#[rstest]
fn a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    #[values("lora", "dora", "vera", "ia3", "loha", "adalora")] method: &str,
) {
    let _turn = super::DROPOUT.lock();
    // With dropout, and running statistics of the base.
    let make = || Adapted::new(Own::new(true), NAME, config(method, 1, 0.2), 7).unwrap();
    let [straight, resumed] = resumed(make);
    equal(&record(&resumed), &record(&straight));
    equal(&contents(resumed.model()), &contents(straight.model()));
    let x = Tensor::<2>::from_floats([[0.3, -0.2, 0.9], [-1.0, 0.4, 0.2]], &device());
    let outputs = [&straight, &resumed].map(|net| net.model().forward(x.clone()).into_data());
    assert_eq!(outputs[0], outputs[1]);

    let [straight, resumed] = self::resumed(|| plain(method, 1));
    equal(&record(&resumed), &record(&straight));
    let outputs = [&straight, &resumed].map(|net| net.model().forward(x.clone()).into_data());
    assert_eq!(outputs[0], outputs[1]);
}

#[test]
fn early_stopping_ends_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let stopping = MetricEarlyStoppingStrategy::new(
        &LossMetric::new(),
        Aggregate::Mean,
        Direction::Lowest,
        Split::Valid,
        StoppingCondition::NoImprovementSince { n_epochs: 1 },
    );
    let still = burn::lr_scheduler::constant::ConstantLr::new(0.0);
    let learner = Learner::new(own("lora", 1, 0.0), AdamWConfig::new().init(), still);
    let trained = training(dir.path(), 10, 1).early_stopping(stopping).launch(learner).model;
    assert_eq!(trained.steps(), 12, "two epochs of six steps");
}

/// A and B of two layers (and E, with six averages and a mask each), and the number of steps.
#[test]
fn records_and_counts_hold_the_adapter_alone() {
    for (method, tensors, numbers) in [("lora", 5, 3 * (3 + 8 + 8 + 2)), ("adalora", 2 * (3 + 7) + 1, 0)] {
        assert_eq!(own(method, 1, 0.0).into_record().len(), tensors);
        assert_eq!(plain(method, 1).into_record().len(), tensors);
        assert!(numbers == 0 || Module::num_params(&own(method, 1, 0.0)) == numbers);
    }
}

#[test]
fn what_cannot_be_trained_is_refused_and_what_fails_is_told() {
    let PeftConfig::AdaLora(config) = config("adalora", 1, 0.0) else { panic!("AdaLoRA") };
    let unknown = PeftConfig::from(AdaLoraConfig { total_step: None, ..config.clone() });
    let error = Adapted::new(Own::new(false), NAME, &unknown, 7).unwrap_err();
    assert!(matches!(error, LearnerError::AdaLora(AdaLoraError::NoTotalStep)), "{error}");
    assert!(matches!(
        Adapted::on_parameters(Plain::new(), &unknown, 7).unwrap_err(),
        LearnerError::AdaLora(AdaLoraError::NoTotalStep)
    ));
    let mut frozen = Own::new(false);
    frozen.add_adapter(NAME, &PeftConfig::from(config.clone()), 7).unwrap();
    frozen.set_trainable(false);
    assert!(matches!(Adapted::of(frozen, NAME).unwrap_err(), LearnerError::NotTrained(_)));

    // A layer that takes no part in the model's output has no gradients.
    let config = AdaLoraConfig { target_modules: TargetModules::list(["first", "unused"]), ..config };
    let net = Adapted::new(Own::new(false), NAME, config, 7).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let training = training(dir.path(), EPOCHS, 1);
    let net = net.with_interrupter(training.interrupter());
    let result = training.launch(learner(net));
    assert_eq!(result.model.steps(), 0, "nothing is applied");
    assert!(result.interrupted.is_some_and(|stop| stop.reason.is_some_and(|reason| reason.contains("unused"))));
    assert!(result.model.save_adapter(dir.path()).unwrap_err().to_string().contains("unused"));
}
